"""Large batches in little memory: GradCache (Gao et al., 2021, arXiv 2101.06983)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from .distributed import largest, world_size

Part = dict[str, Tensor]


class GradientCache:
    """Encodes the parts of a batch, and later takes the gradient of a loss on all vectors back through the model.

    With graphs, this is plain back-propagation. Without them, activations exist for one part only: the vectors are computed
    without a graph, and again, with the same dropout, part by part in the backward pass.
    """

    def __init__(self, accelerator: Any, model: Any, *, keep_graphs: bool) -> None:
        """Name the model.

        Args:
            accelerator: The trainer's accelerator.
            model: The model, as prepared by the accelerator.
            keep_graphs: Whether all activations stay in memory. It is ignored for sharded models (FSDP, ZeRO), whose weights
                are gathered for every pass.
        """
        self.accelerator, self.model = accelerator, model
        self.sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        self.keep_graphs = keep_graphs and not self.sharded
        self._parts: list[Part] = []
        self._outputs: list[Tensor] = []
        self._random: list[dict[str, Any]] = []

    def encode(self, parts: Sequence[Part]) -> Tensor:
        """Return the vectors of this process's parts, [texts, terms], as a leaf that accumulates their gradient."""
        self._parts = list(parts)
        if self.sharded:  # every process must call the model the same number of times
            self._parts += self._parts[-1:] * (largest(len(parts), parts[0]["input_ids"].device) - len(parts))
        self._outputs, self._random = [], []
        for part in self._parts:
            self._random.append(_random_state(part))
            with contextlib.nullcontext() if self.keep_graphs else torch.no_grad():
                self._outputs.append(self.model(**part))
        return torch.cat(self._outputs[: len(parts)]).detach().requires_grad_()

    def backward(self, gradient: Tensor) -> None:
        """Add the gradient of the model's parameters, averaged over the processes as the optimizer expects it.

        Args:
            gradient: Gradient of the loss with respect to the vectors from ``encode``.
        """
        # The processes' gradients are averaged, but the loss is computed over all of them, so that its gradient is their sum.
        if (processes := world_size()) > 1:
            gradient = gradient * processes
        sizes = [len(output) for output in self._outputs]
        if repeated := sum(sizes) - len(gradient):
            gradient = torch.cat([gradient, gradient.new_zeros(repeated, gradient.shape[1])])
        shares = torch.split(gradient, sizes)
        if self.keep_graphs:
            self.accelerator.backward(_surrogate(self._outputs, shares))
        else:
            for number, (part, state, share) in enumerate(zip(self._parts, self._random, shares), 1):
                with self._synchronised(number == len(self._parts)), _replayed(state, part):
                    self.accelerator.backward(_surrogate([self.model(**part)], [share]))
        self._parts, self._outputs, self._random = [], [], []

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        self.accelerator.sync_gradients = last  # DeepSpeed does its optimizer step after the last part
        # Sharded models average after every part: keeping whole gradients would need the memory that sharding saves.
        wait = not last and not self.sharded
        context: AbstractContextManager[Any] = self.accelerator.no_sync(self.model) if wait else contextlib.nullcontext()
        with context:
            yield


def _surrogate(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return a scalar that has the given gradient with respect to the outputs."""
    return torch.stack([(output * gradient).sum() for output, gradient in zip(outputs, gradients)]).sum()


def _random_state(part: Part) -> dict[str, Any]:
    device = part["input_ids"].device
    state = {"cpu": torch.get_rng_state()}
    return state | {"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


@contextlib.contextmanager
def _replayed(state: dict[str, Any], part: Part) -> Iterator[None]:
    """Replay the random numbers of an earlier pass, without changing the numbers of later steps."""
    device = part["input_ids"].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state["cpu"])
        if "device" in state:
            torch.cuda.set_rng_state(state["device"], device)
        yield
