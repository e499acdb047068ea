"""Gradients of large batches in little memory: GradCache (Gao et al., 2021, arXiv 2101.06983)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from .distributed import largest, world_size

Part = dict[str, Any]


class GradientCache:
    """Encodes the parts of a batch, and propagates the gradient of a loss on all vectors back through the model.

    With graphs, this is plain back-propagation. Without graphs, activations exist for one part at a time: the vectors are
    computed without a graph first, and again with the same dropout in the backward pass.

    For each part, the model returns vectors, or (vectors, loss, figures) with a loss of its own.

    Attributes:
        loss: After ``backward``, the sum of the losses that the model returned.
        figures: After ``backward``, the mean over the parts of the figures that the model returned.
    """

    def __init__(self, accelerator: Any, model: Any, *, keep_graphs: bool) -> None:
        """Create a cache. Sharded models (FSDP, ZeRO) never keep graphs, because each pass gathers their weights."""
        self.accelerator, self.model = accelerator, model
        self.sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        self.keep_graphs = keep_graphs and not self.sharded
        self._parts: list[Part] = []
        self._outputs: list[_Encoded] = []
        self._random: list[dict[str, Any]] = []
        self._count = 0
        self.loss = torch.zeros(())
        self.figures: dict[str, Tensor] = {}

    def encode(self, parts: Sequence[Part]) -> Tensor:
        """Return the vectors of this process's parts [texts, terms], as a leaf tensor that requires a gradient."""
        self._parts, self._count = list(parts), len(parts)
        if self.sharded:  # every process must call the model equally often
            self._parts += self._parts[-1:] * (largest(len(parts), parts[0]["input_ids"].device) - len(parts))
        self._outputs, self._random = [], []
        for part in self._parts:
            self._random.append(_random_state(part))
            with contextlib.nullcontext() if self.keep_graphs else torch.no_grad():
                self._outputs.append(_encoded(self.model(**part)))
        return torch.cat([output.vectors for output in self._outputs[: len(parts)]]).detach().requires_grad_()

    def backward(self, gradient: Tensor) -> None:
        """Add the gradient to the model's parameters, averaged over the processes as the optimizer expects.

        Args:
            gradient: Gradient of the loss with respect to the vectors from ``encode``.
        """
        # The loss covers all processes, so its gradient is the sum over them, but they are averaged.
        if (processes := world_size()) > 1:
            gradient = gradient * processes
        sizes = [len(output.vectors) for output in self._outputs]
        if repeated := sum(sizes) - len(gradient):
            gradient = torch.cat([gradient, gradient.new_zeros(repeated, gradient.shape[1])])
        shares = torch.split(gradient, sizes)
        done = [(output.loss.detach(), output.figures) for output in self._outputs]
        if self.keep_graphs:
            self.accelerator.backward(_surrogate(self._outputs, shares))
        else:
            done = []
            for number, (part, state, share) in enumerate(zip(self._parts, self._random, shares), 1):
                with self._synchronised(number == len(self._parts)), _replayed(state, part):
                    output = _encoded(self.model(**part))
                    if number > self._count:  # a repeated part
                        output = output._replace(loss=output.loss * 0.0)
                    self.accelerator.backward(_surrogate([output], [share]))
                    done.append((output.loss.detach(), output.figures))
        self._keep_figures(done[: self._count])
        self._parts, self._outputs, self._random = [], [], []

    def _keep_figures(self, done: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> None:
        self.loss = torch.stack([loss for loss, _ in done]).sum()
        found = [figures for _, figures in done if figures]
        self.figures = {name: torch.stack([figures[name] for figures in found]).mean() for name in (found[0] if found else ())}

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        self.accelerator.sync_gradients = last  # DeepSpeed makes its optimizer step after the last part
        # Sharded models average after every part, because keeping whole gradients would need the memory that sharding saves.
        wait = not last and not self.sharded
        context: AbstractContextManager[Any] = self.accelerator.no_sync(self.model) if wait else contextlib.nullcontext()
        with context:
            yield


class _Encoded(NamedTuple):
    """What the model returned for a part."""

    vectors: Tensor
    loss: Tensor
    figures: dict[str, Tensor]


def _encoded(output: Any) -> _Encoded:
    if isinstance(output, Tensor):
        return _Encoded(output, output.new_zeros(()), {})
    vectors, loss, figures = output
    return _Encoded(vectors, loss, figures)


def _surrogate(outputs: Sequence[_Encoded], gradients: Sequence[Tensor]) -> Tensor:
    """Return a scalar with the given gradient with respect to the vectors, plus the gradient of the model's own losses."""
    terms = [(output.vectors * gradient).sum() + output.loss for output, gradient in zip(outputs, gradients)]
    return torch.stack(terms).sum()


def _random_state(part: Part) -> dict[str, Any]:
    device = part["input_ids"].device
    state = {"cpu": torch.get_rng_state()}
    return state | {"device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


@contextlib.contextmanager
def _replayed(state: dict[str, Any], part: Part) -> Iterator[None]:
    """Repeat the random numbers of an earlier pass, without changing those of later steps."""
    device = part["input_ids"].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state["cpu"])
        if "device" in state:
            torch.cuda.set_rng_state(state["device"], device)
        yield
