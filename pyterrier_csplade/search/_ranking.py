"""The order of results."""

from __future__ import annotations

import numpy as np

from pyterrier_csplade._retrieval import Hits

# Fewer results are sorted with regard to ties at once: to look for ties costs more than it saves.
_FEW = 64


def ranked(docids: np.ndarray, scores: np.ndarray, *, cut: bool = False) -> Hits:
    """Return hits, the best first, of equal scores the first documents.

    Args:
        docids: int64 array.
        scores: float64 array of as many scores.
        cut: Whether the search was cut.
    """
    falling = -scores
    # Not a stable sort, which takes twice as long.
    order = np.argsort(falling) if len(falling) > _FEW else None
    if order is None or _has_ties(falling[order]):
        order = np.lexsort((docids, falling))
    return Hits(docids[order], scores[order], cut)


def _has_ties(values: np.ndarray) -> bool:
    return bool((values[1:] == values[:-1]).any())
