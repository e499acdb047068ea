"""A trainer whose loss is computed from the vectors of a whole batch, over all processes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .gradient_cache import GradientCache, Part
from .objective import Figures
from .scheduled_trainer import ScheduledTrainer


class VectorTrainer(ScheduledTrainer):
    """A trainer whose loss is computed from the vectors of a whole batch."""

    @abstractmethod
    def batch_parts(self, inputs: dict[str, Any]) -> Sequence[Part]:
        """Return the parts of a batch that go through the model one by one."""

    @abstractmethod
    def batch_loss(self, vectors: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Figures]:
        """Compute the loss and figures from the vectors of the parts, [texts of this process, terms]."""

    def take_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Do a step on the batch of all processes.

        Raises:
            TrainingError: The loss is not finite.
        """
        model.train()
        inputs = self._prepare_inputs(inputs)
        cache = GradientCache(self.accelerator, model, keep_graphs=self.config.gradient_accumulation_steps == 1)
        vectors = cache.encode(self.batch_parts(inputs))
        loss, figures = self.batch_loss(vectors, inputs)
        self.check_finite(loss, "loss")
        cache.backward(torch.autograd.grad(loss, vectors)[0])
        self.record(**figures, **cache.figures)
        return loss.detach() + cache.loss
