"""What the processes of a run tell each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor


def world_size() -> int:
    """Processes of this run."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def is_first_process() -> bool:
    """Whether this process writes what exists once."""
    return rank() == 0


def on_one_process_first(write: Callable[[], object]) -> None:
    """Write a file that all processes read: one on each machine does it while the others wait."""
    state = PartialState()
    if state.is_local_main_process:
        write()
    barrier()


def barrier() -> None:
    """Wait until every process is here."""
    if _together():
        dist.barrier()


def largest(value: int, device: torch.device) -> int:
    """The largest of the processes' values."""
    if not _together():
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of the processes' tensors."""
    if _together():
        shared = tensor.to(PartialState().device)
        dist.all_reduce(shared)
        tensor = shared / world_size()
    return tensor


def gather(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Collect tensors whose first dimensions may differ between processes.

    Args:
        tensors: Of this process. Their number, types and other dimensions are the same in all processes.

    Returns:
        For each of ``tensors`` those of all processes, in the order of the ranks. The own ones are those that were given, so
        that gradients flow to them and only to them: a loss that is computed from all on every process has, in each, the exact
        gradient of its own part, and the sum over the processes is that of one process with everything.
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
