"""Where each docno of a collection is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ._opened import OpenCollection


class Lookup:
    """Finds documents by docno: 16 bytes of memory a document, and exact."""

    def __init__(self, shards: OpenCollection) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)])
        hashes = np.concatenate([_hash(shard.docnos) for shard in shards] or [np.empty(0, np.uint64)])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, docnos: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return shard and row of each docno; None for those that are not in the collection."""
        hashes = _hash(docnos)
        first = np.searchsorted(self._hashes, hashes, side="left").tolist()
        last = np.searchsorted(self._hashes, hashes, side="right").tolist()
        return [self._among(docno, start, end) for docno, start, end in zip(docnos, first, last)]

    def _among(self, docno: str, start: int, end: int) -> tuple[int, int] | None:
        for position in self._order[start:end].tolist():
            shard = int(np.searchsorted(self._starts, position, side="right")) - 1
            row = position - int(self._starts[shard])
            if self._shards[shard].docno(row) == docno:
                return shard, row
        return None


def _hash(docnos: Sequence[str]) -> np.ndarray:
    return pd.util.hash_array(np.array(docnos, dtype=object), categorize=False)
