"""A run of distributed_runs.py under FSDP on CPUs, which accelerate allows on accelerators only."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from pyterrier_csplade.training import _contrastive, _run

if __name__ == "__main__":

    def like_accelerators(*args: Any, **kwargs: Any) -> Any:
        arguments = _run.training_arguments(*args, **kwargs)
        assert arguments.device.type == "cpu"
        PartialState().distributed_type = DistributedType.MULTI_GPU
        return arguments

    setattr(_contrastive, "training_arguments", like_accelerators)  # noqa: B010
    runpy.run_path(str(Path(__file__).with_name("distributed_runs.py")), run_name="__main__")
