"""Impacts that OpenSearch stores exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: The largest impact up to which all whole numbers are stored exactly: Lucene's FeatureField keeps 9 significant bits of a
#: float, and would silently make 512 of 513.
MAX_IMPACT = 512


@dataclass
class Loss:
    """What rounding has changed.

    Attributes:
        postings: Impacts that were kept.
        dropped: Weights above 0 that became 0.
        total: Sum of the scaled weights above 0.
        changed: Sum of the absolute differences to the impacts.
    """

    postings: int = 0
    dropped: int = 0
    total: float = 0.0
    changed: float = 0.0

    @property
    def share(self) -> float:
        """The changed part of the sum of all weights, from 0 to 1."""
        return self.changed / self.total if self.total else 0.0

    def add(self, scaled: np.ndarray, impacts: np.ndarray) -> None:
        """Count weights, and what became of them."""
        positive = scaled > 0
        self.postings += int((impacts > 0).sum())
        self.dropped += int((positive & (impacts <= 0)).sum())
        self.total += float(scaled[positive].sum())
        self.changed += float(np.abs(scaled - np.maximum(impacts, 0))[positive].sum())


def quantize(weights: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn finite weights into impacts: ``floor(weight * scale + 0.5)``.

    Returns:
        The scaled weights, float64, and the impacts, float64; those up to 0 are no postings, those above ``MAX_IMPACT`` must
        be refused.
    """
    scaled = weights.astype(np.float64) * scale
    return scaled, np.floor(scaled + 0.5)
