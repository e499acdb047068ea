"""Schedules of the regularisers' weights and of the temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .config import ContrastiveConfig
from .losses import ramped

# Gains of the controller from the error of log nnz to log lambda; our choice (measured: simulated runs of 400 and 3,000 steps
# with the noise of batches of 16 and 512 passages, and runs of tiny models). The proportional gain is large because nnz follows
# lambda slowly: lambda must fall while the error falls, before it is 0. The integral repeats the proportional part of a
# constant error once in this share of all steps.
_PROPORTIONAL = 4.0
_INTEGRAL_STEPS = 0.12
# Span of the moving average of log nnz, as a share of all steps, and its maximum in steps; our choice (measured: in the same
# runs).
_SMOOTHING_STEPS, _LONGEST_SMOOTHING = 0.03, 50
# Largest change of log lambda in a step, and range of lambda; our choice (measured: in the same runs).
_FASTEST = 0.2
_RANGE = (1e-8, 1e4)


#: Standard deviation of a query's scores, in temperatures, at which a softmax has a gradient for several passages; our choice
#: (measured: runs of csplade-tiny, unadapted and adapted, at temperatures from 1 to 100).
WANTED_SPREAD = 3.0
# Share of all steps in which "auto" reaches the final temperature, and weight of a step in the moving average of the spread;
# our choice (not measured).
_ANNEALED, _SPREAD_SMOOTHING = 2 / 3, 0.1


def make_schedule(config: ContrastiveConfig) -> WeightSchedule:
    """Return the schedule of a contrastive run."""
    weights = {"query": config.lambda_query, "document": config.lambda_document}
    return WeightSchedule(weights, config.targets, ramp=config.flops_ramp, steps=config.steps)


class WeightSchedule:
    """Provides lambda of queries and of documents at each optimizer step. Its state is part of every checkpoint.

    Without a target, the weight of a side grows quadratically to a fixed value (Formal et al., 2021). With a target, a PI
    controller adjusts log lambda so that the mean number of active terms reaches the target. The reference value of the
    controller moves on a straight line in logarithms, from the active terms of the first step to the target at the end of the
    ramp. With a constant reference value, lambda would grow until all vectors are empty.
    """

    def __init__(self, weights: Mapping[str, float], targets: Mapping[str, float | None], *, ramp: float, steps: int) -> None:
        """Set weights and targets.

        Args:
            weights: lambda of "query" and of "document": the initial weight with a target, and the final weight without one.
            targets: Active terms of each side; None for a fixed weight.
            ramp: Optimizer steps until the final weight or the target is reached; 0 for no ramp.
            steps: Optimizer steps of the run.
        """
        self.fixed, self.ramp = dict(weights), ramp
        self.sides = {
            side: _Controller(max(weights[side], _RANGE[0]), target, ramp, steps)
            for side, target in targets.items()
            if target is not None
        }

    def weights(self, step: int) -> tuple[float, float]:
        """Return lambda of queries and of documents after ``step`` optimizer steps."""
        query, document = (
            self.sides[side].weight if side in self.sides else ramped(self.fixed[side], step, self.ramp)
            for side in ("query", "document")
        )
        return query, document

    def observe(self, step: int, figures: Mapping[str, float]) -> None:
        """Update the controllers with ``nnz_query`` and ``nnz_document`` of a step, which are the same in every process."""
        for name, side in self.sides.items():
            side.observe(step, figures[f"nnz_{name}"])

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, for a checkpoint."""
        return {name: side.state for name, side in self.sides.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state."""
        for name, side in self.sides.items():
            side.state = dict(state[name])


class _Controller:
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
        log_nnz = math.log(max(nnz, 0.5))  # finite for empty vectors
        state = self.state
        if "start" not in state:
            state |= {"start": log_nnz, "mean": log_nnz, "error": 0.0}
        state["mean"] += self.smoothing * (log_nnz - state["mean"])
        progress = min(1.0, step / self.ramp) if self.ramp else 1.0
        error = state["mean"] - (1 - progress) * state["start"] - progress * math.log(self.target)
        change = _PROPORTIONAL * (error - state["error"]) + self.integral * error
        log_weight = state["log_weight"] + max(-_FASTEST, min(_FASTEST, change))
        state["log_weight"] = max(math.log(_RANGE[0]), min(math.log(_RANGE[1]), log_weight))
        state["error"] = error


class TemperatureSchedule:
    """Provides the temperature at each optimizer step; "auto" follows the spread of the scores.

    The spread is the mean standard deviation of a query's scores. With s its moving average, the temperature is the weighted
    geometric mean of max(final, s / 3) and the final temperature, whose weight grows linearly from 0 to 1. The state is part of
    every checkpoint.
    """

    def __init__(self, temperature: float | str, final: float, steps: int) -> None:
        """Set the temperature.

        Args:
            temperature: A constant, or "auto".
            final: Temperature at the end, for "auto".
            steps: Optimizer steps of the run.
        """
        self.constant = None if isinstance(temperature, str) else temperature
        self.final, self.annealed = final, max(1.0, _ANNEALED * steps)
        self.state: dict[str, float] = {}

    def __call__(self, scores: Tensor, step: int) -> float:
        """Return the temperature for the scores [queries, passages] of all processes after ``step`` optimizer steps."""
        if self.constant is not None:
            return self.constant
        current = spread(scores)
        mean = self.state.get("spread", current)
        self.state["spread"] = mean + _SPREAD_SMOOTHING * (current - mean)
        progress = min(1.0, step / self.annealed)
        following = following_temperature(self.state["spread"], self.final)
        return math.exp((1 - progress) * math.log(following) + progress * math.log(self.final))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state, for a checkpoint."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a state."""
        self.state = {name: float(value) for name, value in state.items()}


def spread(scores: Tensor) -> float:
    """Compute the mean standard deviation of a query's scores; 0 for a single passage."""
    return float(scores.detach().float().std(dim=1).mean()) if scores.shape[1] > 1 else 0.0


def following_temperature(score_spread: float, final: float) -> float:
    """Return the temperature for a spread of the scores, at least ``final``."""
    return max(final, score_spread / WANTED_SPREAD)
