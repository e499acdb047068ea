"""A trainer whose losses have weights that a schedule moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from .schedules import WeightSchedule
from .trainer import CurvesTrainer

_SCHEDULE = "schedule.json"


class ScheduledTrainer(CurvesTrainer):
    """A trainer whose checkpoints keep the state of a schedule, and of other parts besides the weights.

    Attributes:
        schedule: Gives the weights of the regularisers at every step.
        parts: Objects whose tensors checkpoints keep besides the weights, by name.
    """

    schedule: WeightSchedule

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.parts: dict[str, Any] = {}

    def save_state(self, directory: Path) -> None:
        """Save the state of this phase besides the weights."""
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
