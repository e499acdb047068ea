"""Dynamic pruning with MaxScore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .algorithm import Algorithm, Budget, Hits, Searcher, Spending, ranked
from .kernels.available import Scratch, kernels
from .postings import Postings, Query

# Bounds are sums of doubles; they are raised by more than their rounding errors.
_SLACK = 1 + 2.0**-40

# Number of document ranges in a search with a budget; our choice (not measured).
_RANGES = 64


@dataclass(frozen=True)
class MaxScore(Algorithm):
    """MaxScore (Turtle and Flood, Information Processing & Management 31(6), 1995), exact.

    Lists that together cannot lift a document among the best are only looked up for documents found in other lists. Documents
    are scored in windows, as in Lucene. When a budget is spent, the documents at the end of the index are skipped.
    """

    name: ClassVar[str] = "maxscore"

    def prepare(self, postings: Postings) -> Searcher:
        """Return a searcher of postings.

        Raises:
            CspladeError: numba is not installed.
        """
        return MaxScoreSearcher(postings)


class MaxScoreSearcher:
    """Runs the compiled loop over postings with one or two impacts."""

    def __init__(
        self,
        postings: Postings,
        guide: tuple[np.ndarray, np.ndarray, float] | None = None,
        mix: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Create a searcher.

        Args:
            postings: The postings.
            guide: The guide's impacts, as :func:`.guided.read_guide` returns them; None for exact search.
            mix: Share of the guide in the global, the local and the final score.
        """
        self._kernel = kernels("maxscore", "this algorithm")
        self._scratch = Scratch()
        self._postings = postings
        self._guided = guide is not None
        self._guides, self._max_guides, self._scale = guide or (postings.impacts, postings.max_impacts, 1.0)
        self._mix = mix

    def __call__(self, query: Query, k: int, budget: Budget) -> Hits:
        """Search; see :data:`.algorithm.Searcher`."""
        postings, documents = self._postings, len(self._postings)
        bounds = [query.weights * self._bounds(query.terms, share) for share in self._mix[:2]]
        order = np.lexsort((query.terms, -bounds[0]))
        terms, weights = query.terms[order], query.weights[order]
        rests = np.zeros((2, len(terms) + 1))
        for rest, bound in zip(rests, bounds):
            rest[:-1] = np.cumsum(bound[order][::-1])[::-1] * _SLACK
        starts, ends = postings.starts[terms], postings.starts[terms + 1]
        k = min(k, documents)
        heaps, window = self._memory(k)
        lists = postings.docids, postings.impacts, self._guides, np.array([self._guided])
        cursors, spent = starts.copy(), Spending(budget)
        step = max(4096, -(-documents // _RANGES)) if budget else documents
        cut = False
        for first in range(0, documents, step):
            cut = spent.exhausted()
            if cut:
                break
            last = min(first + step, documents)
            spent.postings += self._kernel.maxscore(
                lists, (ends, weights, weights * self._scale), rests, self._mix, heaps, cursors, window, first, last
            )
        scores, docids = heaps[0][2, : heaps[2][2]], heaps[1][2, : heaps[2][2]]
        return ranked(docids, scores, cut=cut)

    def _memory(self, k: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Return empty heaps, and working memory for the documents of a window."""
        kept, size = self._scratch.array, self._kernel.WINDOW
        heaps = kept("best", 3 * k).reshape(3, k), kept("docids", 3 * k, np.int64).reshape(3, k), np.zeros(3, np.int64)
        return heaps, (kept("learned", size), kept("guide", size), kept("found", size, np.uint32))

    def _bounds(self, terms: np.ndarray, share: float) -> np.ndarray:
        bounds: np.ndarray = (1 - share) * self._postings.max_impacts[terms] + share * self._scale * self._max_guides[terms]
        return bounds
