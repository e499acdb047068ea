"""Retrieval from another engine, with the columns of this package's retrievers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyterrier as pt

from pyterrier_csplade._contract import Contract
from pyterrier_csplade._retrieval import Hits, IndexRetriever

from ._engine import Engine, Opened


class EngineRetriever(IndexRetriever):
    """Retrieves from another engine; takes and gives the columns of :class:`pyterrier_csplade.ImpactIndex`'s retrievers.

    ``docid`` is the place of a document in the order of indexing. Documents of equal score come in that order; which of them
    are left out where a ranking ends is for the engine to say. A query without a term of the index has no rows.
    """

    def __init__(self, engine: Engine, *, num_results: int = 1000, threads: int = 1, verbose: bool = False) -> None:
        """Create a retriever; the engine's ``retriever`` explains the arguments."""
        super().__init__(engine, num_results=num_results, threads=threads, verbose=verbose)  # type: ignore[arg-type]
        self.engine = engine
        self._index: Opened | None = None

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return nothing: the engine is an indexer, which no query goes through."""
        return {}

    def _open(self) -> Contract | None:
        self._index = self.engine.open()
        return self._index.contract

    def _search(self, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        assert self._index is not None
        numbers = self._index.numbers
        known = {qid: {numbers[t]: w for t, w in query.items() if t in numbers} for qid, query in queries.items()}
        found = self._run(self._index.engine, {qid: query for qid, query in known.items() if query})
        return {qid: _in_order(hits, self.num_results) for qid, hits in found.items()}

    def _run(self, engine: Any, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        """Search with the engine's own object.

        Args:
            engine: What :meth:`Engine.load` returned.
            queries: qid to number of a term to weight; perhaps none, and none of them empty.

        Returns:
            The documents by their numbers, in any order, scores perhaps 0.
        """
        raise NotImplementedError

    def _read(self, field: str, docids: np.ndarray) -> Any:
        assert self._index is not None
        return self._index.docnos.take(docids)

    def _settings(self) -> dict[str, tuple[Any, Any]]:
        return {"num_results": (self.num_results, 1000), "threads": (self.threads, 1)}


def _in_order(hits: Hits, k: int) -> Hits:
    found = hits.scores > 0
    docids, scores = hits.docids[found], hits.scores[found]
    order = np.lexsort((docids, -scores))[:k]
    return Hits(docids[order], scores[order])
