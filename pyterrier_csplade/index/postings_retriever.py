"""Retrieval and scoring with the arrays of postings of an index, without Java."""

from __future__ import annotations

import heapq
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._settings import CheckedAttribute
from pyterrier_csplade.index.search.algorithm import Algorithm, Budget, Hits, Searcher
from pyterrier_csplade.index.search.algorithm import algorithm as make_algorithm
from pyterrier_csplade.index.search.postings import Postings
from pyterrier_csplade.vectors.checks import check_columns, check_contracts, check_top_k, check_weights, text_qids
from pyterrier_csplade.vectors.impacts import ImpactVector

from .opened import OpenIndex
from .retrieval import IndexRetriever
from .stored import MadeByIndex, StoredIndex


class PostingsRetriever(IndexRetriever):
    """Retrieves from arrays of postings by the dot product of query weights and impacts, in double precision.

    Documents with equal scores are in the order of indexing. A query without a term of the index (empty, None, weights of 0,
    unknown terms only) has no rows in the result. With a budget, the column ``query_cut`` of the result says whether the budget
    ended the search of the query.
    """

    #: Number of heaviest terms of a query to keep; None keeps all.
    max_terms = CheckedAttribute(partial(check_top_k, name="max_terms"))
    #: Number of postings after which a search is cut; None for no limit.
    max_postings = CheckedAttribute(lambda postings: Budget(postings=postings).postings)
    #: Milliseconds after which a search is cut; None for no limit.
    max_ms = CheckedAttribute(lambda ms: Budget(ms=ms).ms)

    def __init__(
        self,
        impact_index: StoredIndex,
        algorithm: Algorithm | str,
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
        self.algorithm = make_algorithm(algorithm, {}) if isinstance(algorithm, str) else algorithm
        self.max_terms = max_terms
        self.max_postings = max_postings
        self.max_ms = max_ms

    def get_parameter(self, name: str) -> Any:
        """Return an argument of the constructor, or an option of the algorithm."""
        return getattr(self.algorithm, name) if name in self.algorithm.options() else super().get_parameter(name)

    def set_parameter(self, name: str, value: Any) -> None:
        """Set an argument of the constructor, or an option of the algorithm, for the next search.

        Raises:
            ValueError: There is no such argument or option, or its value is not valid.
        """
        if name in self.algorithm.options():
            self.algorithm = replace(self.algorithm, **{name: value})
        else:
            super().set_parameter(name, value)

    def _belongs_to(self) -> tuple[Any, ...]:
        return *super()._belongs_to(), self.algorithm

    def _changed(self) -> list[str]:
        return [*self.algorithm.arguments(), *super()._changed()]

    @property
    def _budget(self) -> Budget:
        return Budget(self.max_postings, self.max_ms)

    @property
    def _new_columns(self) -> list[str]:
        return [*super()._new_columns, *(["query_cut"] if self._budget else [])]

    def _open(self) -> OpenIndex:
        opened = self.impact_index.open()
        opened.postings(verbose=self.verbose)
        return opened

    def _search(self, opened: OpenIndex, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        return self._in_threads(partial(self._search_one, opened.postings(), opened.searcher(self.algorithm)), queries)

    def _search_one(self, postings: Postings, searcher: Searcher, weights: dict[str, float]) -> Hits:
        if self.max_terms is not None and len(weights) > self.max_terms:
            known = (term for term in weights if postings.number(term) is not None)
            weights = {term: weights[term] for term in heapq.nlargest(self.max_terms, known, key=weights.__getitem__)}
        query = postings.query(weights)
        postings.check(query.terms)
        return searcher(query, self.num_results, self._budget) if len(query) else Hits.none()

    def _read(self, opened: OpenIndex, field: str, docids: np.ndarray) -> Any:
        return opened.postings().docnos.take(docids) if field == "docno" else opened.read_field(field, docids)

    def _frame(self, opened: OpenIndex | None, queries: pd.DataFrame, hits: list[Hits]) -> pd.DataFrame:
        frame = super()._frame(opened, queries, hits)
        if self._budget:
            cut = np.repeat(np.array([found.cut for found in hits], bool), [len(found.docids) for found in hits])
            frame = frame.assign(query_cut=cut)
        return frame


class PostingsScorer(MadeByIndex):
    """Scores given documents by the dot product of query weights and their impacts in an index.

    Scores equal the retrievers' scores to the last bit; a document without a term of the query has the score 0. Rows keep their
    order; among equal scores, the first row ranks first.
    """

    _method = "scorer"

    def __init__(self, impact_index: StoredIndex, *, verbose: bool = False) -> None:
        """Create a scorer; :meth:`ImpactIndex.scorer` explains the arguments."""
        super().__init__(impact_index)
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``score`` and ``rank``, or replace them.

        Args:
            inp: Results with ``qid``, ``docno`` and ``query_toks`` (term to weight), the same in all rows of a qid.

        Raises:
            ContractError: The queries come from another encoder than the documents.
            DataError: A document is not in the index, a weight is negative or not finite, or a qid has two queries.
            ImpactIndexError: There is no index, or it is damaged.
        """
        check_columns(list(inp.columns), ["qid", "docno", "query_toks"], self)
        scores = np.zeros(len(inp))
        if len(inp):
            opened = self.impact_index.open()
            postings = opened.postings(verbose=self.verbose)
            docids = self._docids(opened.numbers(), inp["docno"])
            queries, rows = self._queries(inp)
            check_contracts(queries, opened.contract, str(self.impact_index.path))
            bar = pt.tqdm(zip(queries["qid"], queries["query_toks"]), desc="scoring", unit="q", disable=not self.verbose)
            for qid, toks in bar:
                scores[rows[qid]] = _scores(postings, check_weights(toks, qid), docids[rows[qid]])
        ranked: pd.DataFrame = pt.model.add_ranks(inp.assign(score=scores))
        return ranked

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that results need."""
        return [["qid", "docno", "query_toks"]]

    def _docids(self, numbers: dict[str, int], docnos: pd.Series) -> np.ndarray:
        missing = [docno for docno in docnos if not (isinstance(docno, str) and docno in numbers)]
        if missing:
            raise DataError(
                f"document {missing[0]!r} is not in {self.impact_index.path} ({len(missing):,} rows are missing): leave it out"
            )
        return np.array([numbers[docno] for docno in docnos], dtype=np.int64)

    def _queries(self, inp: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """Return a frame of the queries, and the positions of each query's rows."""
        columns = {name: inp[name].to_numpy() for name in ("query", "query_toks") if name in inp.columns}
        frame = pd.DataFrame({"qid": text_qids(inp).to_numpy(), **columns})
        queries = frame.drop_duplicates("qid")
        first = dict(zip(queries["qid"], queries["query_toks"]))
        for qid, toks in zip(frame["qid"], frame["query_toks"]):
            if toks is not first[qid] and toks != first[qid]:
                raise DataError(f"qid {qid!r} has two queries: give each query its own qid")
        return queries, frame.groupby("qid", sort=False).indices


def contributions(opened: OpenIndex, query_toks: object, docno: str, index: str) -> dict[str, float]:
    """Return how much each term of a query adds to the score of a document; see :meth:`ImpactIndex.explain`."""
    postings, docid = opened.postings(), opened.numbers().get(docno) if isinstance(docno, str) else None
    if docid is None:
        raise DataError(f"document {docno!r} is not in {index}")
    check_contracts(pd.DataFrame({"qid": ["explained"], "query_toks": [query_toks]}), opened.contract, index)
    weights = check_weights(query_toks, "explained")
    parts = {term: float(_scores(postings, {term: weight}, np.array([docid]))[0]) for term, weight in weights.items()}
    return ImpactVector(sorted(((term, part) for term, part in parts.items() if part), key=lambda item: (-item[1], item[0])))


def _scores(postings: Postings, weights: dict[str, float], docids: np.ndarray) -> np.ndarray:
    scores = np.zeros(len(docids))
    query = postings.query(weights)
    postings.check(query.terms)
    for term, weight in zip(query.terms.tolist(), query.weights.tolist()):
        containing, impacts = postings.list_of(term)
        places = np.minimum(np.searchsorted(containing, docids), len(containing) - 1)
        matches = containing[places] == docids
        scores[matches] += weight * impacts[places[matches]]
    return scores
