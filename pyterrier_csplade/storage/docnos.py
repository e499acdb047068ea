"""A memory-frugal set of docnos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pyterrier_csplade._errors import DataError

# Maximum number of unsorted docnos, in a set that takes ten times the memory of a sorted array; our choice (not measured).
_WAITING = 2**16

# Minimum ratio of the lengths of neighbouring runs, each of which is searched for new docnos; our choice (not measured).
_RATIO = 16


class Docnos:
    """The docnos seen so far, each as a 128-bit digest. Docnos with equal digests count as equal."""

    def __init__(self) -> None:
        self._waiting: set[bytes] = set()
        # Sorted arrays, the longest first.
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs)) + len(self._waiting)

    def add(self, docnos: Sequence[str]) -> None:
        """Add docnos in the order of the input.

        Raises:
            DataError: A docno was added before; the message names it and its position in the input.
        """
        # The last byte keeps numpy from stripping zeros.
        digests = [hashlib.blake2b(docno.encode(), digest_size=15).digest() + b"." for docno in docnos]
        new, known = np.array(digests, dtype="S16"), np.zeros(len(digests), dtype=bool)
        for run in self._runs:
            known |= run[np.minimum(np.searchsorted(run, new), len(run) - 1)] == new
        position = len(self) + 1
        for row, digest in enumerate(digests):
            if known[row] or digest in self._waiting:
                raise DataError(f"docno {docnos[row]!r} of document {position + row} appears twice: docnos must be unique")
            self._waiting.add(digest)
        if len(self._waiting) >= _WAITING:
            self._sort()

    def _sort(self) -> None:
        self._runs.append(np.sort(np.array(list(self._waiting), dtype="S16")))
        self._waiting.clear()
        while len(self._runs) > 1 and len(self._runs[-2]) < _RATIO * len(self._runs[-1]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]), kind="stable")]  # merges sorted runs
