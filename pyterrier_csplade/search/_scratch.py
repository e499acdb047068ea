"""Working memory that searches leave to the next one."""

from __future__ import annotations

import threading

import numpy as np


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
