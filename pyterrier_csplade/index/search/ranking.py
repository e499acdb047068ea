"""The order of results."""

from __future__ import annotations

import threading

import numpy as np

from .algorithm import Hits

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


class Scratch(threading.local):
    """Arrays that each thread keeps: fresh memory costs a page fault for every 4 kB, more than a search of few documents."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, size: int, dtype: np.typing.DTypeLike = np.float64) -> np.ndarray:
        """Return an array of whatever the thread's last search left in it, valid until it asks for the name again.

        Args:
            name: What it is for.
            size: Its length.
            dtype: Its type, always the same for a name.
        """
        kept = self._arrays.get(name)
        if kept is None or len(kept) < size:
            kept = self._arrays[name] = np.empty(size, dtype)
        return kept[:size]
