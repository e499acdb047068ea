"""Docnos that have come."""

from __future__ import annotations

import hashlib

import numpy as np

# Docnos that wait in a set until they are merged into the array (ours): a set takes ten times the memory.
_WAITING = 2**16


class Docnos:
    """A growing set of docnos in 16 bytes each, a 128-bit digest; equal digests are taken for equal docnos."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, dtype="S16")
        self._waiting: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._waiting)

    def add(self, docno: str) -> bool:
        """Add a docno; return whether it is new."""
        digest = hashlib.blake2b(docno.encode(), digest_size=16).digest()
        place = int(np.searchsorted(self._sorted, np.bytes_(digest)))
        # numpy cuts zeros off the end of what it returns.
        if digest in self._waiting or (place < len(self._sorted) and bytes(self._sorted[place]).ljust(16, b"\0") == digest):
            return False
        self._waiting.add(digest)
        if len(self._waiting) == _WAITING:
            waiting = np.sort(np.array(list(self._waiting), dtype="S16"))
            self._sorted = np.sort(np.concatenate([self._sorted, waiting]), kind="stable")  # merges what is sorted
            self._waiting.clear()
        return True
