"""Runs of distributed_runs.py under FSDP or DeepSpeed on CPUs, which accelerate allows on accelerators only."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from pyterrier_csplade.training import _adaptation, _contrastive, _run


def like_accelerators(*args: Any, **kwargs: Any) -> Any:
    arguments = _run.training_arguments(*args, **kwargs)
    assert arguments.device.type == "cpu"
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        from deepspeed import comm

        comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
        PartialState().distributed_type = DistributedType.DEEPSPEED
    else:
        PartialState().distributed_type = DistributedType.MULTI_GPU
    return arguments


if __name__ == "__main__":
    for phase in (_adaptation, _contrastive):
        setattr(phase, "training_arguments", like_accelerators)  # noqa: B010
    runpy.run_path(str(Path(__file__).with_name("distributed_runs.py")), run_name="__main__")
