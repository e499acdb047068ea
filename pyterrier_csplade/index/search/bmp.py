"""Block-max pruning: blocks of documents whose bounds are too low are skipped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import numpy as np

from pyterrier_csplade.vectors.checks import check_share

from .algorithm import Algorithm, Budget, Hits, Searcher, Spending, ranked
from .blocks import BLOCKS_OF_GROUP, DEPTHS, open_blocks
from .kernels.available import Scratch, kernels
from .postings import Postings, Query

# Number of documents whose blocks are searched first, in addition to the number of results; our choice (not measured).
_FIRST = 160
# Ratio of the numbers of blocks in successive steps; our choice (not measured).
_GROWTH = 8
# Number of bounds that are sampled to choose the first blocks; our choice (not measured).
_SAMPLE = 2048
# Number of blocks searched between two checks of a budget; our choice (measured: less than a millisecond).
_STEP = 64
# Bounds are sums in single precision; they are raised by more than the rounding error of each term of a query.
_SLACK = 2.0**-22
# Smallest weight in bounds, relative to the largest; smaller ones could underflow in single precision.
_LEAST_WEIGHT = 2.0**-60


@dataclass(frozen=True)
class BlockMaxPruning(Algorithm):
    """Block-max pruning (Mallia, Suel, Tonellotto, SIGIR 2024); with ``alpha=1`` and ``beta=1`` exact, including ties.

    The search first computes an upper bound of the scores in each block. It searches the blocks with the largest bounds, then,
    in the order of the index, the other blocks that may still contain a better document. If many results are requested, few
    blocks can be skipped, and exhaustive search is faster. When a budget is spent, the blocks with the smallest bounds are
    skipped.

    Attributes:
        block_size: Number of documents in a block, from 1 to 256. Smaller blocks have tighter bounds and take more memory.
        alpha: Factor of the bounds, above 0 and at most 1. Below 1, blocks that might contain a better document are skipped.
        beta: Share of the query's terms to keep, the heaviest, rounded up; above 0 and at most 1. Below 1, scores lack the
            parts of the other terms.
        reordered: Whether blocks follow the order that :meth:`pyterrier_csplade.ImpactIndex.reorder` made, if there is one.
    """

    name: ClassVar[str] = "bmp"

    block_size: int = 4
    alpha: float = 1.0
    beta: float = 1.0
    reordered: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.block_size, Integral) and 1 <= self.block_size <= 256):
            raise ValueError(f"block_size must be a whole number from 1 to 256, found {self.block_size!r}")
        object.__setattr__(self, "block_size", int(self.block_size))  # JSON cannot represent numpy's integers
        object.__setattr__(self, "reordered", bool(self.reordered))
        check_share(alpha=self.alpha, beta=self.beta, above_zero=True)

    def prepare(self, postings: Postings) -> Searcher:
        """Return a searcher; opens the side lists, or builds them.

        Raises:
            CspladeError: numba is not installed.
            ImpactIndexError: The side lists are damaged, or cannot be written into the directory of the index.
        """
        return _BlockSearcher(self, postings)


class _BlockSearcher:
    def __init__(self, options: BlockMaxPruning, postings: Postings) -> None:
        self._options = options
        self._kernel = kernels("bmp", "block-max pruning")
        self._sides = sides = open_blocks(postings, options.block_size, reordered=options.reordered)
        self._lists = postings.starts, sides.docids, sides.impacts
        self._documents = len(postings)
        self._scratch = Scratch()

    def __call__(self, query: Query, k: int, budget: Budget) -> Hits:
        """Search; see :data:`.algorithm.Searcher`."""
        if len(query) == 0:
            return Hits.none()
        query = self._heaviest(query)
        k = min(k, self._documents)
        bounds, scale = self._bounds(query)
        scale *= self._options.alpha
        least = self._estimate(query, k)
        heap = self._scratch.array("best", k), self._scratch.array("docids", k, np.int64), np.zeros(1, np.int64)
        cut = self._search(query, bounds, scale, least, heap, budget)
        scores, docids = heap[0][: heap[2][0]], heap[1][: heap[2][0]]
        return ranked(docids, scores, cut=cut)

    def _bounds(self, query: Query) -> tuple[np.ndarray, float]:
        """Return the bound of each block, float32, and the score of one unit of the bounds."""
        sides, heaviest = self._sides, float(query.weights.max())
        bounds = self._scratch.array("bounds", -(-self._documents // sides.block_size), np.float32)
        weights = np.maximum(query.weights / heaviest, _LEAST_WEIGHT) * sides.steps[query.terms]
        self._kernel.bound_blocks(
            query.terms, weights.astype(np.float32), (sides.starts, sides.block_starts), sides.blocks, sides.maxima, bounds
        )
        return bounds, heaviest * (1 + (len(query) + 2) * _SLACK)

    def _search(
        self,
        query: Query,
        bounds: np.ndarray,
        scale: float,
        least: float,
        heap: tuple[np.ndarray, np.ndarray, np.ndarray],
        budget: Budget,
    ) -> bool:
        """Search blocks, the most promising first; return whether the budget ended the search."""
        sides, k, spent = self._sides, len(heap[0]), Spending(budget)
        sizes = sides.block_size, sides.block_size * BLOCKS_OF_GROUP, self._documents
        scores = self._scratch.array("scores", max(self._kernel.WINDOW, sides.block_size))
        first = _STEP if budget else -(-(k + _FIRST) // sides.block_size)
        high = _high(bounds, first)
        for low, below in ((high, math.inf), (0.0, high)):
            if heap[2][0] == k:
                least = max(least, float(heap[0][0]))
            blocks = _between(bounds, max(low, least / scale), below)
            for some in _in_steps(blocks, bounds, self._steps(query, first, len(blocks), budget)):
                if spent.exhausted():
                    return True
                spent.postings += self._kernel.search_blocks(
                    some, bounds[some], least, scale, sizes, (query.terms, query.weights), self._lists,
                    (sides.starts, sides.maxima, sides.offset_starts, sides.offsets), sides.order, scores, heap,
                )  # fmt: skip
        return False

    def _steps(self, query: Query, first: int, blocks: int, budget: Budget) -> list[int]:
        """Return the number of blocks in each step by bounds; the other blocks are searched in the order of the index."""
        if budget:
            return [first] * -(-blocks // first)
        # Together these steps may take half as long as exhaustive search.
        starts = self._lists[0]
        postings = int(np.sum(starts[query.terms + 1] - starts[query.terms]))
        most, steps = postings // (2 * self._kernel.JUMP * len(query)), [first]
        while sum(steps) + _GROWTH * steps[-1] <= most:
            steps.append(_GROWTH * steps[-1])
        return steps

    def _heaviest(self, query: Query) -> Query:
        kept = math.ceil(self._options.beta * len(query))
        if kept == len(query):
            return query
        chosen = np.sort(np.argsort(-query.weights, kind="stable")[:kept])
        return Query(query.terms[chosen], query.weights[chosen])

    def _estimate(self, query: Query, k: int) -> float:
        """Return a score that k documents reach with one term alone, from the term's k-th largest impact."""
        for depth, kth_impacts in zip(DEPTHS, self._sides.kth_impacts):
            if k <= depth:
                return float(np.max(query.weights * kth_impacts[query.terms], initial=0.0))
        return 0.0


def _high(bounds: np.ndarray, number: int) -> float:
    """Return a bound that roughly ``number`` blocks reach, estimated from a sample."""
    step = -(-len(bounds) // _SAMPLE)
    sample = bounds[::step]
    place = len(sample) - min(len(sample), -(-number // step))
    return float(np.partition(sample, place)[place])


def _between(bounds: np.ndarray, low: float, below: float) -> np.ndarray:
    """Return the blocks whose bound is above 0, reaches ``low`` and is smaller than ``below``."""
    blocks = np.flatnonzero(bounds >= low if low > 0 else bounds > 0)
    return blocks[bounds[blocks] < below]


def _in_steps(blocks: np.ndarray, bounds: np.ndarray, steps: list[int]) -> Iterator[np.ndarray]:
    """Yield the blocks of each step, in the order of the index: first the steps with the largest bounds, then the others."""
    number = min(sum(steps), len(blocks))
    chosen = np.argpartition(-bounds[blocks], number)[:number] if number < len(blocks) else np.arange(number)
    best = blocks[chosen][np.argsort(-bounds[blocks[chosen]])]
    for step in steps:
        if len(best):
            yield np.sort(best[:step])
            best = best[step:]
    if number < len(blocks):
        yield np.delete(blocks, chosen)
