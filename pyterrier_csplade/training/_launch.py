"""The processes of a run: started by torchrun or accelerate, or one alone."""

from __future__ import annotations

import os
from datetime import timedelta

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from pyterrier_csplade._errors import ConfigError

from ._processes import world_size

# How long processes wait for another: one reads and writes the training data, which takes more than NCCL's ten minutes for
# large collections. Ours; a launcher ends the others at once when one dies.
_PATIENCE = timedelta(hours=6)
# What accelerate's launcher sets.
_PRECISION = "ACCELERATE_MIXED_PRECISION"


def start_processes(*, use_cpu: bool) -> int:
    """Let this process find the others that a launcher started.

    Args:
        use_cpu: Whether there is no accelerator.

    Returns:
        The number of processes.

    Raises:
        ConfigError: A launcher was asked for several processes and started one alone, or some did not come.
    """
    asked = int(os.environ.get("WORLD_SIZE", 1))
    # What accelerate sets when it was asked for several processes; where it cannot start them it runs one and says nothing.
    alone = _PRECISION in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    if alone:
        raise ConfigError(
            "accelerate was asked for several processes but started this one alone (it starts several on CPUs with MPI only): "
            "use torchrun --nproc-per-node N -m pyterrier_csplade ..."
        )
    PartialState(cpu=use_cpu, timeout=_PATIENCE)
    if world_size() != asked:
        raise ConfigError(f"{asked} processes were asked for and {world_size()} came together")
    return world_size()


def launched_with_deepspeed() -> bool:
    """Whether accelerate's launcher asked for DeepSpeed."""
    return bool(parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"))


def choose_precision(*, bf16: bool) -> None:
    """Let the run's configuration decide on mixed precision where the launcher has a setting of its own.

    transformers would follow the launcher's in a run without ``bf16``: a float32 run would be none.
    """
    if _PRECISION in os.environ:
        os.environ[_PRECISION] = "bf16" if bf16 else "no"
