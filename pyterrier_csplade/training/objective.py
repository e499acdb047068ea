"""The loss of contrastive training, computed from the vectors of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .batches import Labels
from .config import ContrastiveConfig, Regularizer
from .losses import (
    DocumentFrequencies,
    accuracy,
    anti_zero,
    df_flops,
    flops,
    kl_loss,
    l0_mask,
    l1,
    margin_mse_loss,
    ranking_loss,
)
from .schedules import TemperatureSchedule, spread

Figures = dict[str, Tensor | float]


class ContrastiveObjective:
    """Computes L = L_rank + lambda_Q * R(Q) + lambda_D * R(D) (paper, section 3.2), and the other configured terms.

    The vectors of all processes form one batch, so every process computes the same loss.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config = config
        self.temperatures = TemperatureSchedule(config.temperature, config.last_temperature, config.steps)
        self.frequencies = {side: DocumentFrequencies(config.df_steps) for side in ("query", "document")}

    def __call__(
        self,
        queries: Tensor,
        passages: Tensor,
        labels: Labels,
        weights: tuple[float, float],
        *,
        step: int = 0,
        scored: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Figures]:
        """Compute the loss.

        Args:
            queries: Vectors of the queries, [queries, terms].
            passages: Vectors of the passages, [passages, terms].
            labels: Relevance of the passages to the queries.
            weights: lambda of queries and of passages.
            step: Number of completed optimizer steps.
            scored: Vectors of queries and passages after expansion control, for ranking. The regularisers always see all terms.

        Returns:
            The loss, and figures for the training curves.
        """
        config = self.config
        scores = queries @ passages.T if scored is None else scored[0] @ scored[1].T
        excluded = labels.excluded
        temperature = self.temperatures(scores, step)
        loss, figures = self._ranking(scores, excluded, labels, temperature)
        if config.temperature == "auto":
            figures |= {"temperature": temperature, "score_spread": spread(scores) / temperature}
        for side, vectors, weight, regularizer, threshold in (
            ("query", queries, weights[0], config.query_regularizer, config.query_l0_threshold),
            ("document", passages, weights[1], config.document_regularizer, config.document_l0_threshold),
        ):
            penalty = self._penalty(l0_mask(vectors, threshold) if threshold else vectors, regularizer, side)
            loss = loss + weight * penalty
            figures |= {f"lambda_{side}": weight, **sparsity(vectors, side), f"{regularizer}_{side}": penalty}
        if config.anti_zero_weight:
            figures["anti_zero"] = anti_zero(queries, passages)
            loss = loss + config.anti_zero_weight * figures["anti_zero"]
        with torch.no_grad():
            figures["accuracy"] = accuracy(scores, labels.targets, excluded)
            figures["max_score"] = scores.amax(dim=1).mean()
        return loss, figures

    def _ranking(self, scores: Tensor, excluded: Tensor, labels: Labels, temperature: float) -> tuple[Tensor, Figures]:
        config = self.config
        figures: Figures = {}
        loss = scores.new_zeros(())
        if config.infonce_weight:
            figures["rank_loss"] = rank = ranking_loss(scores, labels.targets, excluded, temperature)
            loss = loss + config.infonce_weight * rank
        temperatures = (temperature, config.teacher_temperature)
        if config.kl_weight:
            figures["kl_loss"] = kl = kl_loss(scores, labels.teacher, labels.own, *temperatures)
            loss = loss + config.kl_weight * kl
        if config.margin_mse_weight:
            figures["margin_mse"] = mse = margin_mse_loss(scores, labels.teacher, labels.own, labels.targets, *temperatures)
            loss = loss + config.margin_mse_weight * mse
        return loss, figures

    def _penalty(self, vectors: Tensor, regularizer: Regularizer, side: str) -> Tensor:
        if regularizer == "l1":
            return l1(vectors)
        if regularizer == "flops":
            return flops(vectors)
        frequencies = self.frequencies[side]
        penalty = df_flops(vectors, frequencies.shares(vectors), self.config.df_cutoff, self.config.df_steepness)
        frequencies.add(vectors.detach())
        return penalty

    def state_dict(self) -> dict[str, Tensor]:
        """Return the document frequencies and the state of the temperature, for a checkpoint."""
        return {f"{part}.{name}": t for part, kept in self._parts.items() for name, t in kept.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state."""
        for part, kept in self._parts.items():
            kept.load_state_dict({name.partition(".")[2]: t for name, t in state.items() if name.startswith(f"{part}.")})

    @property
    def _parts(self) -> dict[str, Any]:
        return {**self.frequencies, "temperature": self.temperatures}


def sparsity(weights: Tensor, side: str) -> Figures:
    """Compute the mean number of active terms, the share of empty vectors, and FLOPS."""
    weights = weights.detach()
    active = (weights > 0).sum(dim=1)
    return {
        f"nnz_{side}": active.float().mean(),
        f"empty_{side}": (active == 0).float().mean(),
        f"flops_{side}": flops(weights),
    }
