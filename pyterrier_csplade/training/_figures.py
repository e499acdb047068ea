"""Figures of a run between two points of its curves."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from ._processes import mean_over_processes


class Figures:
    """Collects figures, and gives their means over an optimizer step and since the last point of the curves."""

    def __init__(self) -> None:
        self._of_step: dict[str, list[Tensor]] = defaultdict(list)
        self._since_log: dict[str, list[Tensor]] = defaultdict(list)

    def record(self, figures: dict[str, Tensor | float]) -> None:
        """Add figures of a forward pass."""
        for name, figure in figures.items():
            value = torch.as_tensor(figure).detach().float()
            self._of_step[name].append(value)
            self._since_log[name].append(value)

    def end_step(self) -> dict[str, float]:
        """The means of the optimizer step that ends."""
        ended, self._of_step = self._of_step, defaultdict(list)
        return _means(ended)

    def end_point(self) -> dict[str, float]:
        """The means since the last call, over all processes."""
        ended, self._since_log = self._since_log, defaultdict(list)
        return _means(ended)

    def save(self, path: Path) -> None:
        """Write what the next point of the curves needs."""
        values = {name: [float(value) for value in recorded] for name, recorded in self._since_log.items()}
        path.write_text(json.dumps(values), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Go on from what was saved."""
        values = json.loads(path.read_text(encoding="utf-8"))
        self._since_log = defaultdict(list, {name: [torch.tensor(value) for value in kept] for name, kept in values.items()})


def _means(recorded: dict[str, list[Tensor]]) -> dict[str, float]:
    if not recorded:
        return {}
    values = [value for kept in recorded.values() for value in kept]
    # Some figures are made on the host, and processes exchange those of the accelerator.
    device = next((value.device for value in values if value.device.type != "cpu"), values[0].device)
    means = torch.stack([torch.stack([value.to(device) for value in kept]).mean() for kept in recorded.values()])
    return dict(zip(recorded, mean_over_processes(means).tolist()))
