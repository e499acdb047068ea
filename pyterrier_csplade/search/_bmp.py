"""Dynamic pruning of blocks of documents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pyterrier_csplade._retrieval import Hits

from ._algorithm import Algorithm, Budget, Searcher
from ._blocks import DEPTHS, open_blocks
from ._fast import kernels
from ._postings import Postings, Query

# Postings between two looks at a budget of time (ours): less than a millisecond.
_PIECE = 2**17


@dataclass(frozen=True)
class BlockMaxPruning(Algorithm):
    """Block-max pruning (Mallia, Suel, Tonellotto, SIGIR 2024); with ``alpha=1`` and ``beta=1`` exact, ties included.

    A bound of the scores in each group of blocks is added up first, and groups are searched from the largest bound on; in a
    group, blocks whose own bound is too small are left out (two levels, as in arXiv 2504.17045). The search ends when no
    bound reaches the worst of the best documents. With a budget, the groups of the smallest bounds are left out when it is
    spent.

    Attributes:
        block_size: Documents of a block, from 1 to 256: smaller blocks have closer bounds and take more memory.
        alpha: Factor of the bounds, above 0 and at most 1. Below 1 blocks are left out that might hold a better document.
        beta: Share of the query's terms that are kept, the heaviest, rounded up; above 0 and at most 1. Below 1 scores lack
            what the other terms add.
        reordered: Whether blocks follow the order that :meth:`pyterrier_csplade.ImpactIndex.reorder` made, if there is one.
    """

    name: ClassVar[str] = "bmp"

    block_size: int = 64
    alpha: float = 1.0
    beta: float = 1.0
    reordered: bool = True

    def __post_init__(self) -> None:
        if not (1 <= self.block_size <= 256 and self.block_size == int(self.block_size)):
            raise ValueError(f"block_size must be a whole number from 1 to 256, found {self.block_size}")
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, found {getattr(self, name)}")

    def prepare(self, postings: Postings) -> Searcher:
        """Open the side lists, or build them.

        Raises:
            CspladeError: numba is not installed.
            ImpactIndexError: They are damaged, or cannot be written beside the index.
        """
        return _BlockSearcher(self, postings)


class _BlockSearcher:
    def __init__(self, options: BlockMaxPruning, postings: Postings) -> None:
        self._options = options
        self._kernel = kernels("_kernel_bmp", "block-max pruning")
        self._sides = sides = open_blocks(postings, options.block_size, reordered=options.reordered)
        self._lists = postings.starts, sides.docids, sides.impacts
        self._side_lists = (
            sides.steps, sides.group_starts, sides.group_postings, sides.group_blocks, sides.block_starts, sides.blocks,
            sides.maxima, sides.lengths,
        )  # fmt: skip
        self._documents = len(postings)
        self._groups = -(-len(postings) // sides.group_size)

    def __call__(self, query: Query, k: int, budget: Budget) -> Hits:
        """Search; see :class:`._algorithm.Searcher`."""
        query = self._heaviest(query)
        k = min(k, self._documents)
        bounds, entries = np.empty(self._groups), np.empty((len(query), self._groups), np.int32)
        sides = self._sides
        self._kernel.bound_groups(
            query.terms, query.weights, sides.steps, sides.group_starts, sides.groups, sides.group_maxima, entries, bounds
        )
        least = self._estimate(query, k)
        candidates = np.flatnonzero((bounds > 0) & (self._options.alpha * bounds >= least))
        candidates = candidates[np.argsort(-bounds[candidates], kind="stable")]
        heap = np.empty(k), np.empty(k, np.int64), np.zeros(1, np.int64)
        cut = self._search(candidates, bounds[candidates], least, (query.terms, query.weights, entries), heap, budget)
        scores, docids = heap[0][: heap[2][0]], heap[1][: heap[2][0]]
        ranking = np.lexsort((docids, -scores))
        return Hits(docids[ranking], scores[ranking], cut)

    def _search(
        self,
        candidates: np.ndarray,
        bounds: np.ndarray,
        least: float,
        query: tuple[np.ndarray, np.ndarray, np.ndarray],
        heap: tuple[np.ndarray, np.ndarray, np.ndarray],
        budget: Budget,
    ) -> bool:
        """Search the groups, in pieces where there is a budget; return whether it was cut."""
        sizes = self._sides.block_size, self._sides.group_size, self._documents
        spent, done = budget.start(), 0
        piece = min(_PIECE, budget.postings or _PIECE) if budget else np.iinfo(np.int64).max
        while done < len(candidates):
            if spent.exhausted():
                return True
            searched, scored = self._kernel.search_groups(
                candidates[done:], bounds[done:], self._options.alpha, least, piece, sizes, query, self._lists,
                self._side_lists, self._sides.order, heap,
            )  # fmt: skip
            done += searched
            spent.postings += scored
        return False

    def _heaviest(self, query: Query) -> Query:
        kept = math.ceil(self._options.beta * len(query))
        if kept == len(query):
            return query
        chosen = np.sort(np.argsort(-query.weights, kind="stable")[:kept])
        return Query(query.terms[chosen], query.weights[chosen])

    def _estimate(self, query: Query, k: int) -> float:
        """Return a score that k documents reach: by one term alone, whose k-th largest impact is known."""
        for depth, kth_impacts in zip(DEPTHS, self._sides.kth_impacts):
            if k <= depth:
                return float(np.max(query.weights * kth_impacts[query.terms], initial=0.0))
        return 0.0
