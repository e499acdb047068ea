"""What retrievers and search algorithms exchange: budgets, hits, and algorithms by name."""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from .postings import Postings, Query


@dataclass(frozen=True)
class Hits:
    """The documents found for a query, the best first.

    Attributes:
        docids: int64 array.
        scores: float64 array.
        cut: Whether a budget ended the search early.
    """

    docids: np.ndarray
    scores: np.ndarray
    cut: bool = False

    @classmethod
    def none(cls) -> Hits:
        """Return no hits."""
        return cls(np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Budget:
    """Limits on the cost of a search; None means no limit.

    Attributes:
        postings: Number of postings to score.
        ms: Milliseconds.
    """

    postings: int | None = None
    ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("postings", "ms"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Real) and float(value) > 0):
                raise ValueError(f"max_{name} must be a number above 0, or None for no limit, found {value!r:.60}")

    def __bool__(self) -> bool:
        return self.postings is not None or self.ms is not None


class Spending:
    """The part of a budget that a search has spent; the clock starts at once."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._end = None if budget.ms is None else time.perf_counter() + budget.ms / 1000
        self.postings = 0

    def exhausted(self, postings: int = 0) -> bool:
        """Whether the budget is spent, or too small for this many more postings."""
        limit = self._budget.postings
        too_many = limit is not None and self.postings > 0 and self.postings + max(postings, 1) > limit
        return too_many or (self._end is not None and time.perf_counter() >= self._end)


#: Searches the postings that it was prepared for; several threads may call it at the same time. It takes a query of at least
#: one term whose lists have been checked, the maximum number of documents to return, and a budget, which always allows one
#: step. It returns documents with a score above 0, the best first, and equal scores in the order of indexing.
Searcher = Callable[[Query, int, Budget], Hits]


@dataclass(frozen=True)
class Algorithm:
    """A search algorithm. Its fields are its options, each with a default."""

    name: ClassVar[str]

    def prepare(self, postings: Postings) -> Searcher:
        """Return a searcher of postings."""
        raise NotImplementedError

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Return the default of each option."""
        return {field.name: field.default for field in dataclasses.fields(cls)}

    def arguments(self) -> list[str]:
        """Return the arguments of ``ImpactIndex.retriever`` that select this algorithm, as source code, without defaults."""
        options = [(name, getattr(self, name), default) for name, default in self.options().items()]
        return [f"algorithm={self.name!r}", *(f"{name}={value!r}" for name, value, default in options if value != default)]


# Name of an algorithm to its module and class. Modules are imported at first use.
_ALGORITHMS = {
    "exhaustive": ("exhaustive", "Exhaustive"),
    "maxscore": ("maxscore", "MaxScore"),
    "guided": ("guided", "Guided"),
    "bmp": ("bmp", "BlockMaxPruning"),
}


def algorithm(name: str, options: dict[str, Any]) -> Algorithm:
    """Return an algorithm by its name.

    Raises:
        ValueError: There is no such algorithm, or an option has an invalid value.
        TypeError: The algorithm has no such option.
    """
    if not (isinstance(name, str) and name in _ALGORITHMS):
        raise ValueError(f"algorithm must be one of terrier, {', '.join(_ALGORITHMS)}, found {name!r}")
    module, class_name = _ALGORITHMS[name]
    found: type[Algorithm] = getattr(importlib.import_module(f".{module}", __package__), class_name)
    known = found.options()
    for option in options:
        if option not in known:
            only = ", ".join(known) or "the options of all algorithms"
            raise TypeError(f"algorithm {name!r} has no option {option!r}, only {only}")
    return found(**options)


# Maximum number of results that are sorted by score and document at once; our choice (not measured).
_FEW = 64


def ranked(docids: np.ndarray, scores: np.ndarray, *, cut: bool = False) -> Hits:
    """Return hits (int64 docids and float64 scores) with the best first; equal scores are in the order of documents."""
    negated = -scores
    if len(negated) > _FEW:
        order = np.argsort(negated)  # a stable sort would take twice as long
        if (negated[order[1:]] != negated[order[:-1]]).all():
            return Hits(docids[order], scores[order], cut)
    order = np.lexsort((docids, negated))
    return Hits(docids[order], scores[order], cut)
