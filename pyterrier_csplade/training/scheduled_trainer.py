"""Trainers whose losses have weights from a schedule."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .gradient_cache import GradientCache, Part
from .objective import Figures
from .schedules import WeightSchedule
from .trainer import CurvesTrainer

_SCHEDULE = "schedule.json"


class ScheduledTrainer(CurvesTrainer):
    """A trainer whose checkpoints contain the state of a schedule and of other parts besides the weights.

    Attributes:
        schedule: Provides the weights of the regularisers at every step.
        parts: Objects by name, whose tensors are saved in checkpoints.
    """

    schedule: WeightSchedule

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.parts: dict[str, Any] = {}

    def save_state(self, directory: Path) -> None:
        """Save the states of the schedule and the parts."""
        for name, part in self.parts.items():
            save_file(part.state_dict(), directory / f"{name}.safetensors")
        (directory / _SCHEDULE).write_text(json.dumps(self.schedule.state_dict()), encoding="utf-8")

    def load_state(self, directory: Path) -> None:
        """Load what ``save_state`` wrote."""
        for name, part in self.parts.items():
            part.load_state_dict(load_file(directory / f"{name}.safetensors"))
        self.schedule.load_state_dict(json.loads((directory / _SCHEDULE).read_text(encoding="utf-8")))

    def step_done(self, figures: dict[str, float]) -> None:
        """Pass the figures of an optimizer step to the schedule."""
        self.schedule.observe(self.state.global_step, figures)


class VectorTrainer(ScheduledTrainer):
    """A trainer whose loss is computed from the vectors of a whole batch, over all processes."""

    @abstractmethod
    def batch_parts(self, inputs: dict[str, Any]) -> Sequence[Part]:
        """Return the parts of a batch, which go through the model one by one."""

    @abstractmethod
    def batch_loss(self, vectors: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Figures]:
        """Compute the loss and figures from the vectors of the parts, [texts of this process, terms]."""

    def take_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Compute the loss of the batch of all processes, and its gradient.

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
