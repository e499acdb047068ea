"""The weights of the regularisers in the course of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from .config import ContrastiveConfig
from .losses import ramped


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


# Ours, tuned on simulated runs of 400 and 3,000 steps with noise as of batches of 16 and of 512 passages, and on runs of tiny
# models. Both gains are of log lambda for an error of log nnz. The first is large, because nnz follows lambda slowly: an error
# that falls must lower lambda before it is gone.
_PROPORTIONAL = 4.0
_INTEGRAL_STEPS = 0.12  # an error that stays adds its proportional part again in this share of all steps
# Span of the moving average of log nnz: this share of all steps, since the end of a short run would be that of its last few
# batches otherwise, and 50 steps at most.
_SMOOTHING_STEPS, _LONGEST_SMOOTHING = 0.03, 50
_FASTEST = 0.2  # the logarithm of a lambda moves by no more in a step
_RANGE = (1e-8, 1e4)  # of a lambda


class BudgetSchedule:
    """Moves each lambda so that the mean number of active terms reaches a target (ours; a PI controller in logarithms).

    The target is approached on a path that is straight in logarithms, from what the first step found to the target at the end
    of the ramp: a jump would let lambda grow until everything is 0. A side without a target has a fixed weight with a ramp.
    """

    def __init__(self, weights: Mapping[str, float], targets: Mapping[str, float | None], *, ramp: float, steps: int) -> None:
        """Name start and target.

        Args:
            weights: lambda of "query" and of "document", to begin with.
            targets: Active terms of each side; None: a fixed weight.
            ramp: Optimizer steps after which the target is due.
            steps: Optimizer steps of the run.
        """
        self.fixed = {side: weight for side, weight in weights.items() if targets[side] is None}
        self.ramp = ramp
        self.sides = {
            side: _Side(max(weights[side], _RANGE[0]), target, ramp, steps)
            for side, target in targets.items()
            if target is not None
        }

    def weights(self, step: int) -> tuple[float, float]:
        """Both weights after ``step`` optimizer steps."""
        query, document = (
            self.sides[side].weight if side in self.sides else ramped(self.fixed[side], step, self.ramp)
            for side in ("query", "document")
        )
        return query, document

    def observe(self, step: int, figures: Mapping[str, float]) -> None:
        """Learn from ``nnz_query`` and ``nnz_document`` of an optimizer step."""
        for name, side in self.sides.items():
            side.observe(step, figures[f"nnz_{name}"])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both controllers."""
        return {name: side.state for name, side in self.sides.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, side in self.sides.items():
            side.state = dict(state[name])


class _Side:
    """The controller of one side."""

    def __init__(self, weight: float, target: float, ramp: float, steps: int) -> None:
        self.target, self.ramp = target, ramp
        self.smoothing = 1 / max(1.0, min(_LONGEST_SMOOTHING, _SMOOTHING_STEPS * steps))
        self.integral = _PROPORTIONAL / max(1.0, _INTEGRAL_STEPS * steps)
        self.state: dict[str, float] = {"log_weight": math.log(weight)}

    @property
    def weight(self) -> float:
        return math.exp(self.state["log_weight"])

    def observe(self, step: int, nnz: float) -> None:
        log_nnz = math.log(max(nnz, 0.5))  # below one term, the way back must stay finite
        state = self.state
        if "start" not in state:
            state |= {"start": log_nnz, "mean": log_nnz, "error": 0.0}
        state["mean"] += self.smoothing * (log_nnz - state["mean"])
        way = min(1.0, step / self.ramp) if self.ramp else 1.0
        error = state["mean"] - (1 - way) * state["start"] - way * math.log(self.target)
        change = _PROPORTIONAL * (error - state["error"]) + self.integral * error
        log_weight = state["log_weight"] + max(-_FASTEST, min(_FASTEST, change))
        state["log_weight"] = max(math.log(_RANGE[0]), min(math.log(_RANGE[1]), log_weight))
        state["error"] = error
