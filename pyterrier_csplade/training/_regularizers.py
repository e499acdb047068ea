"""The weights of the regularisers in the course of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ._contrastive_config import ContrastiveConfig
from ._controller import BudgetSchedule
from ._losses import ramped


class WeightSchedule(Protocol):
    """Says how heavy the regularisers weigh at each optimizer step. Its state is part of every checkpoint."""

    def weights(self, step: int) -> tuple[float, float]:
        """Lambda of queries and of documents, after ``step`` optimizer steps."""

    def observe(self, step: int, figures: Mapping[str, float]) -> None:
        """Take note of the figures of an optimizer step, for example ``nnz_document``; the same on every process."""

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on exactly; JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class RampSchedule:
    """Quadratic growth to fixed weights, in optimizer steps (Formal et al., 2021). It has no state."""

    def __init__(self, query: float, document: float, ramp: float) -> None:
        """Name the final weights.

        Args:
            query: lambda of queries.
            document: lambda of documents.
            ramp: Optimizer steps of growth; 0: none.
        """
        self.query, self.document, self.ramp = query, document, ramp

    def weights(self, step: int) -> tuple[float, float]:
        """Compute both weights after ``step`` optimizer steps."""
        return ramped(self.query, step, self.ramp), ramped(self.document, step, self.ramp)

    def observe(self, step: int, figures: Mapping[str, float]) -> None:
        """Learn nothing: the weights depend on the step alone."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept that nothing."""


def make_schedule(config: ContrastiveConfig) -> WeightSchedule:
    """Make the schedule that a configuration asks for."""
    targets = config.targets
    if any(targets.values()):
        weights = {"query": config.lambda_query, "document": config.lambda_document}
        return BudgetSchedule(weights, targets, ramp=config.flops_ramp, steps=config.steps)
    return RampSchedule(config.lambda_query, config.lambda_document, config.flops_ramp)
