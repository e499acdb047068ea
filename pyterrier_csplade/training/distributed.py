"""The processes of a run: starting, waiting, and exchanging tensors; and all uses of DeepSpeed.

This is the only file that uses private interfaces of DeepSpeed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.serialization import safe_globals
from transformers.integrations import deepspeed

from pyterrier_csplade._errors import ConfigError


def world_size() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Return the number of this process, counted from 0."""
    return dist.get_rank() if _together() else 0


def is_first_process() -> bool:
    """Return whether this process writes the files of the run."""
    return rank() == 0


def on_one_process_first(write: Callable[[], object]) -> None:
    """Write a file that all processes read. One process of each machine writes it while the others wait."""
    if PartialState().is_local_main_process:
        write()
    barrier()


def barrier() -> None:
    """Wait until every process has called this."""
    if _together():
        dist.barrier()


def largest(value: int, device: torch.device) -> int:
    """Return the largest of the processes' values."""
    if not _together():
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Return the mean of the processes' tensors."""
    if _together():
        shared = tensor.to(PartialState().device)
        dist.all_reduce(shared)
        tensor = shared / world_size()
    return tensor


def gather(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Collect tensors whose first dimensions may differ between processes.

    Args:
        tensors: Tensors of this process. Their number, dtypes and other dimensions must be the same in all processes.

    Returns:
        For each tensor, a list of the tensors of all processes in the order of the ranks. Gradients flow only to the tensors of
        this process. If every process computes the same loss from all tensors, each gets the exact gradient of its own part,
        and the sum over the processes is the gradient of a single process with all data.
    """
    if not _together():
        return [[tensor] for tensor in tensors]
    lengths = torch.tensor([len(tensor) for tensor in tensors], device=tensors[0].device)
    all_lengths = [torch.empty_like(lengths) for _ in range(world_size())]
    dist.all_gather(all_lengths, lengths)
    table = torch.stack(all_lengths).tolist()
    return [_gather_one(tensor, [row[column] for row in table]) for column, tensor in enumerate(tensors)]


def _gather_one(tensor: Tensor, lengths: list[int]) -> list[Tensor]:
    padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
    padded[: len(tensor)] = tensor.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    gathered = [part[:length] for part, length in zip(parts, lengths)]
    gathered[rank()] = tensor
    return gathered


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


# Maximum time that processes wait for each other; our choice (not measured). One process prepares the training data, which
# takes longer than NCCL's ten minutes for large collections. If a process dies, the launcher ends the others at once.
_PATIENCE = timedelta(hours=6)
# Set by accelerate's launcher.
_PRECISION = "ACCELERATE_MIXED_PRECISION"


def start_processes(*, use_cpu: bool) -> int:
    """Connect this process to the other processes of a launcher.

    Returns:
        The number of processes.

    Raises:
        ConfigError: The launcher started fewer processes than requested.
    """
    asked = int(os.environ.get("WORLD_SIZE", 1))
    # accelerate sets MASTER_ADDR if several processes are requested. If it cannot start them, it silently runs one.
    if _PRECISION in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate was asked for several processes but started this one alone (it starts several on CPUs with MPI only): "
            "use torchrun --nproc-per-node N -m pyterrier_csplade ..."
        )
    PartialState(cpu=use_cpu, timeout=_PATIENCE)
    if world_size() != asked:
        raise ConfigError(f"the launcher was asked for {asked} processes, but {world_size()} are connected")
    return world_size()


def launched_with_deepspeed() -> bool:
    """Return whether accelerate's launcher asked for DeepSpeed."""
    return bool(parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"))


def choose_precision(*, bf16: bool) -> None:
    """Make the run's configuration decide on mixed precision.

    Otherwise, transformers would follow the launcher's setting in a run without ``bf16``.
    """
    if _PRECISION in os.environ:
        os.environ[_PRECISION] = "bf16" if bf16 else "no"


def reads_weights_of(module: nn.Module, other: nn.Module) -> None:
    """Make ZeRO-3 gather the weights of a module for another module that reads them without calling it.

    Args:
        module: The module whose forward pass reads the weights.
        other: The module with the weights, for example the LM head.
    """
    if deepspeed.is_deepspeed_zero3_enabled():
        from deepspeed.runtime.zero import register_external_parameter

        for parameter in other.parameters(recurse=False):
            register_external_parameter(module, parameter)


@contextmanager
def values_only() -> Iterator[None]:
    """Restrict DeepSpeed to loading tensors, numbers and its settings; by default, it runs any code in pickles."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch reads this variable at every load
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with safe_globals(_deepspeed_settings()):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


# Classes in DeepSpeed's checkpoints, by module. They are private.
_SETTINGS = {
    "deepspeed.runtime.fp16.loss_scaler": "LossScaler",
    "deepspeed.runtime.zero.config": "ZeroStageEnum",
    "deepspeed.utils.tensor_fragment": "fragment_address",
}


def _deepspeed_settings() -> list[Any]:
    """Return those of these classes that the installed DeepSpeed has. A checkpoint with other classes is refused."""
    found = []
    for module, name in _SETTINGS.items():
        with suppress(ImportError, AttributeError):
            found.append(getattr(importlib.import_module(module), name))
    return found
