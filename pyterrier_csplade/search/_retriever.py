"""Retrieval from the arrays of postings of an index."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._contract import Contract
from pyterrier_csplade._retrieval import Hits, IndexRetriever

from ._algorithm import Algorithm, Budget, Searcher
from ._postings import Postings

if TYPE_CHECKING:
    from pyterrier_csplade._index import ImpactIndex


class PostingsRetriever(IndexRetriever):
    """Retrieves from arrays of postings, without Java, by the dot product of query weights and impacts.

    Scores are the sums of the products in double precision; documents with equal scores come in the order of indexing. A query
    without a term of the index (empty, None, weights of 0, unknown terms only) has no rows in the result. With a budget the
    result has a column ``query_cut``: whether it ended the search of the query.
    """

    schematic = {"label": "PostingsRetriever", "help_url": None}

    def __init__(
        self,
        impact_index: ImpactIndex,
        algorithm: Algorithm,
        *,
        num_results: int = 1000,
        max_terms: int | None = None,
        max_postings: int | None = None,
        max_ms: float | None = None,
        include_fields: list[str] | None = None,
        threads: int = 1,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`ImpactIndex.retriever` explains the arguments."""
        super().__init__(impact_index, num_results=num_results, include_fields=include_fields, threads=threads, verbose=verbose)
        if max_terms is not None and max_terms < 1:
            raise ValueError(f"max_terms must be at least 1, or None for all terms, found {max_terms}")
        self.algorithm = algorithm
        self.max_terms = max_terms
        self.max_postings = max_postings
        self.max_ms = max_ms
        self._budget = Budget(max_postings, max_ms)
        self._opened: tuple[Postings, Searcher] | None = None

    def _settings(self) -> dict[str, tuple[Any, Any]]:
        return {
            **self.algorithm.settings(),
            **super()._settings(),
            "max_terms": (self.max_terms, None),
            "max_postings": (self.max_postings, None),
            "max_ms": (self.max_ms, None),
        }

    @property
    def _new_columns(self) -> list[str]:
        return [*super()._new_columns, *(["query_cut"] if self._budget else [])]

    def _open(self) -> Contract | None:
        postings = self.impact_index.postings(verbose=self.verbose)
        if self._opened is None or self._opened[0] is not postings:  # the index may have been built again
            self._opened = postings, self.algorithm.prepare(postings)
        return postings.contract

    def _search(self, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        if self.threads == 1:
            return self._named(queries, map(self._search_one, queries.values()))
        with ThreadPoolExecutor(self.threads) as executor:
            return self._named(queries, executor.map(self._search_one, queries.values()))

    def _named(self, queries: dict[str, dict[str, float]], hits: Iterator[Hits]) -> dict[str, Hits]:
        if self.verbose:
            hits = pt.tqdm(hits, desc=self.algorithm.name, total=len(queries), unit="q")
        return dict(zip(queries, hits))

    def _search_one(self, weights: dict[str, float]) -> Hits:
        assert self._opened is not None
        postings, searcher = self._opened
        if self.max_terms is not None and len(weights) > self.max_terms:
            known = (term for term in weights if postings.number(term) is not None)
            weights = {term: weights[term] for term in heapq.nlargest(self.max_terms, known, key=weights.__getitem__)}
        query = postings.query(weights)
        postings.check(query.terms)
        return searcher(query, self.num_results, self._budget) if len(query) else Hits.none()

    def _read(self, field: str, docids: np.ndarray) -> Any:
        assert self._opened is not None
        if field == "docno":
            return self._opened[0].docnos.take(docids)
        return self.impact_index.read_field(field, docids, self._opened[0].index)

    def _frame(self, queries: pd.DataFrame, hits: list[Hits]) -> pd.DataFrame:
        frame = super()._frame(queries, hits)
        if self._budget:
            cut = np.repeat(np.array([found.cut for found in hits], bool), [len(found.docids) for found in hits])
            frame = frame.assign(query_cut=cut)
        return frame
