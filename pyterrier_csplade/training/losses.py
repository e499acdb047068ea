"""Losses and regularisers of contrastive training."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def ranking_loss(scores: Tensor, targets: Tensor, excluded: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute InfoNCE, L_rank of the paper: the mean cross-entropy of each query's positive among all passages of the batch.

    Args:
        scores: Inner products, [queries, passages].
        targets: The positive passage of each query, int64 [queries].
        excluded: Passages to exclude from the negatives of a query, bool [queries, passages].
        temperature: Divisor of the scores (not in the paper).
    """
    return cross_entropy((scores / temperature).masked_fill(excluded, float("-inf")), targets)


def accuracy(scores: Tensor, targets: Tensor, excluded: Tensor) -> Tensor:
    """Compute the share of queries whose positive has the highest score; arguments as for ``ranking_loss``."""
    return (scores.masked_fill(excluded, float("-inf")).argmax(dim=1) == targets).float().mean()


def kl_loss(scores: Tensor, teacher: Tensor, own: Tensor, temperature: float = 1.0, teacher_temperature: float = 1.0) -> Tensor:
    """Compute the mean Kullback-Leibler divergence between a teacher's and the model's softmax over each query's own passages.

    Args:
        scores: Inner products, [queries, passages].
        teacher: Score of each passage for its query by a teacher, [passages].
        own: The passages that were drawn for a query, bool [queries, passages].
        temperature: Divisor of the scores. Unlike in some implementations, the loss is not multiplied by its square.
        teacher_temperature: Divisor of the teacher's scores.
    """
    minus_infinity = torch.finfo(scores.dtype).min
    student = torch.log_softmax((scores / temperature).masked_fill(~own, minus_infinity), dim=1)
    target = (teacher.to(scores.dtype) / teacher_temperature).expand_as(scores).masked_fill(~own, minus_infinity)
    target = torch.log_softmax(target, dim=1)
    return (target.exp() * (target - student)).masked_fill(~own, 0).sum(dim=1).mean()


def margin_mse_loss(
    scores: Tensor,
    teacher: Tensor,
    own: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Compute the mean squared difference between margins (positive minus negative) and a teacher's margins (arXiv 2010.02666).

    The mean is over all pairs of a query and one of its own hard negatives; arguments as for ``kl_loss`` and ``ranking_loss``.
    """
    rows = torch.arange(len(scores), device=scores.device)
    student = scores / temperature
    wanted = teacher.to(scores.dtype) / teacher_temperature
    difference = (student[rows, targets, None] - student) - (wanted[targets, None] - wanted[None, :])
    negatives = own.clone()
    negatives[rows, targets] = False
    return difference.masked_fill(~negatives, 0).square().sum() / negatives.sum().clamp(min=1)


def ramped(weight: float, step: int, ramp: float) -> float:
    """Return a regulariser's weight: ``weight * (step / ramp) ** 2`` during the ramp, then ``weight`` (Formal et al., 2021).

    Args:
        weight: The final weight.
        step: Number of completed optimizer steps.
        ramp: Optimizer steps of the ramp; 0 for no ramp.
    """
    return weight * min(1.0, step / ramp) ** 2 if ramp else weight


def flops(weights: Tensor) -> Tensor:
    """Compute the FLOPS regulariser of weights [texts, terms]: the sum over terms of the squared mean (Paria et al., 2020)."""
    return weights.mean(dim=0).square().sum()


def df_flops(weights: Tensor, shares: Tensor, cutoff: float = 0.1, steepness: float = 10.0) -> Tensor:
    """Compute DF-FLOPS (arXiv 2505.15070): FLOPS with mean weights multiplied by a sigmoid of the document frequency.

    Args:
        weights: Non-negative weights, [texts, terms].
        shares: Share of the documents in which each term is active, [terms].
        cutoff: alpha, the share at which the factor is one half.
        steepness: beta.
    """
    return (weights.mean(dim=0) * df_factor(shares, cutoff, steepness)).square().sum()


def df_factor(shares: Tensor, cutoff: float = 0.1, steepness: float = 10.0) -> Tensor:
    """Return the sigmoid of DF-FLOPS, ``1 / (1 + (x ** log_cutoff(2) - 1) ** steepness)``: 0 at 0, 1/2 at the cutoff."""
    exponent = math.log(2) / math.log(cutoff)  # below 0: x ** exponent falls from infinity to 1
    return 1 / (1 + (shares.clamp(0, 1).double() ** exponent - 1) ** steepness).to(shares.dtype)


def l1(weights: Tensor) -> Tensor:
    """Compute the mean over texts of the sum of weights [texts, terms], as SPLADE++ does for queries."""
    return weights.sum(dim=1).mean()


def l0_mask(weights: Tensor, threshold: int) -> Tensor:
    """Set the weights of texts with at most ``threshold`` terms to 0, so that they are not regularised (arXiv 2504.14839)."""
    return weights * ((weights > 0).sum(dim=1, keepdim=True) > threshold)


def anti_zero(queries: Tensor, passages: Tensor) -> Tensor:
    """Compute ``1 / (sum of all query weights)^2 + 1 / (sum of all passage weights)^2``, as in the code of SPLADE.

    A sum of 0 counts as 1e-6, so that the result is finite; our choice (not measured). It has no gradient then.
    """
    return sum((1 / weights.sum().clamp(min=1e-6).square() for weights in (queries, passages)), torch.zeros(()).to(queries))


class DocumentFrequencies:
    """Estimates the share of passages in which each term is active, from the training batches.

    The paper of DF-FLOPS estimates the shares on a validation set every 100 steps. Counting the training passages of the last
    interval instead is our choice (not measured). During the first interval, every share is 1, which makes DF-FLOPS equal to
    FLOPS.
    """

    def __init__(self, steps: int) -> None:
        """Set the length of an interval."""
        self.steps = steps
        self._state: dict[str, Tensor] = {}

    def shares(self, weights: Tensor) -> Tensor:
        """Return the current estimate, [terms], on the device of ``weights`` [texts, terms]."""
        if "shares" not in self._state:
            self._state["shares"] = torch.ones(weights.shape[1])
        return self._state["shares"].to(weights.device)

    def add(self, weights: Tensor) -> None:
        """Count the active terms of the passages of an optimizer step, [texts, terms]."""
        if "counts" not in self._state:
            self._state |= {"counts": torch.zeros(weights.shape[1]), "seen": torch.zeros(2)}
        self._state["counts"] += (weights > 0).sum(dim=0).cpu()
        self._state["seen"] += torch.tensor([1, len(weights)])
        steps, texts = self._state["seen"].tolist()
        if steps >= self.steps:
            self._state = {"shares": self._state["counts"] / texts}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts and the estimate."""
        return self._state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state."""
        self._state = dict(state)
