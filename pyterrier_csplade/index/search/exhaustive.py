"""Exhaustive search: every posting of every term of the query is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .algorithm import Algorithm, Budget, Hits, Searcher, Spending, ranked
from .kernels.available import Scratch, has_numba, kernels
from .postings import Postings, Query


@dataclass(frozen=True)
class Exhaustive(Algorithm):
    """Term-at-a-time search; the reference for all other algorithms.

    When a budget is spent, the terms that can add least are skipped, and scores are parts of the dot products.
    """

    name: ClassVar[str] = "exhaustive"

    def prepare(self, postings: Postings) -> Searcher:
        """Return a searcher; with numba its code is compiled, which is much faster."""
        return _CompiledSearcher(postings) if has_numba() else _NumpySearcher(postings)


class _NumpySearcher:
    """Adds one list after another to the scores of all documents."""

    def __init__(self, postings: Postings) -> None:
        self._postings = postings

    def __call__(self, query: Query, k: int, budget: Budget) -> Hits:
        scores = np.zeros(len(self._postings))
        spent, cut = Spending(budget), False
        for term, weight in zip(query.terms.tolist(), query.weights.tolist()):
            docids, impacts = self._postings.list_of(term)
            cut = spent.exhausted(len(docids))
            if cut:
                break
            self._add(docids, impacts, weight, scores)
            spent.postings += len(docids)
        return _best(scores, k, cut=cut)

    def _add(self, docids: np.ndarray, impacts: np.ndarray, weight: float, scores: np.ndarray) -> None:
        # A document appears once in a list, so no addition is lost.
        scores[docids] += weight * impacts


class _CompiledSearcher(_NumpySearcher):
    """Scores one window of documents after another, or, with a budget, one list after another."""

    def __init__(self, postings: Postings) -> None:
        super().__init__(postings)
        self._kernel = kernels("exhaustive", "compiled search")
        self._lists = postings.starts, postings.docids, postings.impacts
        self._scratch = Scratch()

    def __call__(self, query: Query, k: int, budget: Budget) -> Hits:
        if budget:
            return super().__call__(query, k, budget)
        kernel, documents = self._kernel, len(self._postings)
        k = min(k, documents)
        # A small collection does not need a full window, and clearing one would take as long as the search.
        window = min(kernel.WINDOW, -(-documents // kernel.CHUNK) * kernel.CHUNK)
        best = self._scratch.array("docids", max(4 * k, 4096), np.int64), self._scratch.array("best", max(4 * k, 4096))
        scores = self._scratch.array("scores", window)
        count = kernel.exhaustive(self._lists, query.terms, query.weights, documents, k, scores, best)
        return ranked(best[0][:count], best[1][:count])

    def _add(self, docids: np.ndarray, impacts: np.ndarray, weight: float, scores: np.ndarray) -> None:
        self._kernel.add_up_to(docids, impacts, 0, len(docids), len(scores), weight, scores, 0)


def _best(scores: np.ndarray, k: int, *, cut: bool = False) -> Hits:
    """Return the k largest scores above 0; equal scores are in the order of documents."""
    least = 0.0 if k >= len(scores) else float(np.partition(scores, len(scores) - k)[len(scores) - k])
    docids = np.flatnonzero(scores >= least if least > 0 else scores)
    order = docids[np.argsort(-scores[docids], kind="stable")[:k]]
    return Hits(order, scores[order], cut)
