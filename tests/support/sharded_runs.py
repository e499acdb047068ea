"""Runs of distributed_runs.py with FSDP or DeepSpeed on CPUs, although accelerate requires accelerators."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from inside.training import CurvesTrainer, adaptation, contrastive, pooled
from inside.training import run as training_run
from pyterrier_csplade.training import LoraSettings


def like_accelerators(*args: Any, **kwargs: Any) -> Any:
    arguments = training_run.training_arguments(*args, **kwargs)
    assert arguments.device.type == "cpu"
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        from deepspeed import comm

        comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
        PartialState().distributed_type = DistributedType.DEEPSPEED
    else:
        PartialState().distributed_type = DistributedType.MULTI_GPU
    return arguments


def record_held(self: CurvesTrainer) -> None:
    """Record the bytes of the adapted layers' weights, in total and in this process; then continue as usual."""
    weights = [
        weight
        for name, weight in self.model_wrapped.named_parameters()
        if "lora_" not in name and any(f".{layer}." in name for layer in LoraSettings().target_modules)
    ]
    held = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]
    numbers = {name: sum(w.numel() * w.element_size() for w in ws) for name, ws in (("held", held), ("whole", weights))}
    (Path(self.config.output) / f"held-{self.args.process_index}.json").write_text(json.dumps(numbers))
    restore(self)


if __name__ == "__main__":
    restore = CurvesTrainer.restore
    setattr(CurvesTrainer, "restore", record_held)  # noqa: B010
    for phase in (adaptation, contrastive, pooled):
        setattr(phase, "training_arguments", like_accelerators)  # noqa: B010
    runpy.run_path(str(Path(__file__).with_name("distributed_runs.py")), run_name="__main__")
