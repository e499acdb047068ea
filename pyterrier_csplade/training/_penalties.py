"""The regularisers: penalties on vectors that are not sparse, or that are empty."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flops(weights: Tensor) -> Tensor:
    """The FLOPS regulariser: sum over terms of the squared mean weight in the batch (Paria et al., 2020).

    Args:
        weights: Not negative, [texts, terms].
    """
    return weights.mean(dim=0).square().sum()


def df_flops(weights: Tensor, shares: Tensor, cutoff: float = 0.1, steepness: float = 10.0) -> Tensor:
    """DF-FLOPS (arXiv 2505.15070): FLOPS whose mean weights are multiplied by a sigmoid of the document frequency.

    Args:
        weights: Not negative, [texts, terms].
        shares: Share of the documents in which each term is active, [terms].
        cutoff: alpha; the share at which the factor is one half.
        steepness: beta.
    """
    return (weights.mean(dim=0) * df_factor(shares, cutoff, steepness)).square().sum()


def df_factor(shares: Tensor, cutoff: float = 0.1, steepness: float = 10.0) -> Tensor:
    """The sigmoid of DF-FLOPS, ``1 / (1 + (x ** log_cutoff(2) - 1) ** steepness)``: 0 for x = 0, 1/2 at the cutoff, 1 for 1."""
    exponent = math.log(2) / math.log(cutoff)  # below 0: x ** exponent falls from infinity to 1
    return 1 / (1 + (shares.clamp(0, 1).double() ** exponent - 1) ** steepness).to(shares.dtype)


def l1(weights: Tensor) -> Tensor:
    """Mean over texts of the sum of their weights, as SPLADE++ has it on queries.

    Args:
        weights: Not negative, [texts, terms].
    """
    return weights.sum(dim=1).mean()


def l0_mask(weights: Tensor, threshold: int) -> Tensor:
    """The weights with those of texts of at most ``threshold`` terms set to 0, which spares them (arXiv 2504.14839)."""
    return weights * ((weights > 0).sum(dim=1, keepdim=True) > threshold)


def anti_zero(queries: Tensor, passages: Tensor) -> Tensor:
    """``1 / (sum of all query weights)^2 + 1 / (sum of all passage weights)^2``, as in the code of SPLADE.

    Sums of 0 count as 1e-6 (ours), so that the term stays finite; it has no gradient there.
    """
    return sum((1 / weights.sum().clamp(min=1e-6).square() for weights in (queries, passages)), torch.zeros(()).to(queries))


class DocumentFrequencies:
    """Shares of the passages in which each term is active, estimated from the training batches.

    Its paper estimates them on a validation set every 100 steps; the passages of the last such stretch of training are ours.
    Until the first stretch is over, every share is 1, which makes DF-FLOPS the same as FLOPS.
    """

    def __init__(self, steps: int) -> None:
        """Set the length of a stretch.

        Args:
            steps: Optimizer steps between two estimates.
        """
        self.steps = steps
        self._state: dict[str, Tensor] = {}

    def shares(self, weights: Tensor) -> Tensor:
        """The current estimate, on the device of ``weights`` [texts, terms]."""
        if "shares" not in self._state:
            self._state["shares"] = torch.ones(weights.shape[1])
        return self._state["shares"].to(weights.device)

    def add(self, weights: Tensor) -> None:
        """Count the passages of an optimizer step, [texts, terms]."""
        if "counts" not in self._state:
            self._state |= {"counts": torch.zeros(weights.shape[1]), "seen": torch.zeros(2)}
        self._state["counts"] += (weights > 0).sum(dim=0).cpu()
        self._state["seen"] += torch.tensor([1, len(weights)])
        steps, texts = self._state["seen"].tolist()
        if steps >= self.steps:
            self._state = {"shares": self._state["counts"] / texts}

    def state_dict(self) -> dict[str, Tensor]:
        """Counts and estimate."""
        return self._state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self._state = dict(state)
