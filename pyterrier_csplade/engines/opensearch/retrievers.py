"""Retrievers and scorer on OpenSearch: impacts by dot product, text by BM25."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade._settings import CheckedAttribute, Settings
from pyterrier_csplade.vectors.checks import (
    as_names,
    check_contracts,
    check_names,
    check_plain_queries,
    check_weights,
    positive,
    query_ids,
    text_qids,
)

from .connection import explain, part
from .mapping import DOCNO, IMPACTS, Metadata, TermNames
from .remote import ClusterIndex, RemoteIndex

# OpenSearch's index.max_result_window.
_MAX_RESULTS = 10_000
# Maximum number of documents in a search of the scorer, below _MAX_RESULTS; our choice (not measured).
_DOCUMENTS = 1000

# Lucene computes in single precision, which overflows at 2**128. Weights up to 2**96, times impacts up to 2**9, can be summed
# over any vocabulary; a weight below 2**-126 would lose digits.
_LARGEST_EXPONENT, _SMALLEST_EXPONENT = 96, -126

# The server's names of the error for a query with too many clauses. If this error is wrapped in another, the reason contains
# "maxClauseCount is set to 1024".
_TOO_MANY_TERMS = ("too_many_clauses", "too_many_nested_clauses")

# qid, query of OpenSearch, and factor of its scores.
_Query = tuple[str, dict[str, Any], float]


class _ClusterTransformer(Settings, pt.Transformer):
    """Sends searches to an index on a cluster."""

    # The method of OpenSearchIndex that makes the transformer, and settings of all its searches.
    _factory: str
    _header: Mapping[str, str] = {}

    #: Number of searches in a request.
    batch_size = CheckedAttribute(positive("batch_size"))

    def __init__(self, index: ClusterIndex, *, batch_size: int, verbose: bool) -> None:
        self.index = index
        self.batch_size = batch_size
        self.verbose = verbose

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return an empty dict: the index is the source of the results, not a step of a pipeline."""
        return {}

    def __str__(self) -> str:
        return self._named(self.index.remote.name, *self._changed())

    def _maker(self) -> str:
        return f"{self.index!r}.{self._factory}"

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.index,)

    def _answers(self, searches: Sequence[_Search]) -> Iterator[tuple[_Search, list[dict[str, Any]]]]:
        """Send searches, several in a request; yield each with its hits: ``docno``, ``score`` and ``_source``."""
        remote = self.index.remote
        starts: Iterable[int] = range(0, len(searches), self.batch_size)
        for start in pt.tqdm(starts, desc=type(self).__name__, unit="batch") if self.verbose else starts:
            batch = searches[start : start + self.batch_size]
            for search, answer in zip(batch, remote.search([search.body for search in batch], **self._header)):
                if "error" in answer:
                    raise _refusal(answer, search.qid, remote)
                hits = []
                for hit in part(answer, "hits").get("hits", []):
                    match hit:
                        case {"sort": [int() | float() as score, str() as docno]}:
                            hits.append({DOCNO: docno, "score": score * search.factor, "_source": part(hit, "_source")})
                        case _:
                            raise remote.connection.strange_answer(answer)
                yield search, hits


def _check_num_results(num_results: Any) -> int:
    checked = positive("num_results")(num_results)
    if checked > _MAX_RESULTS:
        raise ValueError(f"num_results must be from 1 to {_MAX_RESULTS:,}, found {checked}")
    return checked


def _check_filter(filter: Any) -> Mapping[str, Any] | None:
    if filter is not None and not isinstance(filter, Mapping):
        raise ValueError(f"filter must be a query of OpenSearch, such as {{'term': {{'book': 'physics'}}}}, found {filter!r}")
    return filter


class ClusterRetriever(_ClusterTransformer):
    """Retrieves from an index on a cluster; documents with equal scores are in the order of their docnos."""

    _column: str  # of the queries

    #: Maximum number of documents for each query.
    num_results = CheckedAttribute(_check_num_results)
    #: A query of OpenSearch that all results match; None for all documents.
    filter = CheckedAttribute(_check_filter)
    #: Stored fields to return besides the docno; None for none.
    include_fields = CheckedAttribute(as_names)

    def __init__(
        self,
        index: ClusterIndex,
        *,
        num_results: int = 1000,
        filter: Mapping[str, Any] | None = None,
        include_fields: list[str] | None = None,
        batch_size: int = 32,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`OpenSearchIndex.retriever` explains the arguments."""
        super().__init__(index, batch_size=batch_size, verbose=verbose)
        self.num_results = num_results
        self.filter = filter
        self.include_fields = include_fields

    def _check(self, queries: pd.DataFrame) -> bool:
        """Refuse queries that cannot be searched; return whether there is anything to search."""
        raise NotImplementedError

    def _queries(self, queries: pd.DataFrame, metadata: Metadata) -> Iterator[_Query]:
        """Yield the queries to send, without queries that cannot match anything."""
        raise NotImplementedError

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search.

        Args:
            inp: Queries with ``qid`` and the retriever's column.

        Returns:
            The input's columns (a ``score`` or ``rank`` is replaced), ``docno``, the included fields, ``rank`` and ``score``,
            in the order of the queries.

        Raises:
            ContractError: The queries come from another encoder than the documents.
            DataError: A query cannot be searched, or a qid is missing or appears twice.
            ImpactIndexError: There is no complete index, the cluster cannot be reached, or it refused a query; the message
                names it.
        """
        pt.validate.query_frame(inp, extra_columns=[self._column], context=self)
        check_names(inp.columns)
        queries = inp.drop(columns=self._new_columns, errors="ignore").assign(qid=query_ids(inp))
        found = self.index.remote.read(partial(self._search, queries)) if self._check(queries) else {}
        return self._frame(queries, [found.get(qid, []) for qid in queries["qid"]])

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """Apply a rank cutoff in the search, unless the search has a stricter one."""
        return self if k >= self.num_results else pt.inspect.transformer_apply_attributes(self, num_results=k)

    @property
    def _fields(self) -> list[str]:
        return [field for field in self.include_fields or () if field != DOCNO]

    @property
    def _new_columns(self) -> list[str]:
        return [DOCNO, *self._fields, "rank", "score"]

    def _search(self, queries: pd.DataFrame, metadata: Metadata) -> dict[str, list[dict[str, Any]]]:
        """Return qid to hits."""
        missing = [field for field in self._fields if field not in metadata.fields]
        if missing:
            raise ImpactIndexError(f"{self.index.remote} stores no field {missing[0]!r}, only {', '.join(metadata.fields)}")
        searches = []
        for qid, query, factor in self._queries(queries, metadata):
            if self.filter is not None:
                query = {"bool": {"must": [query], "filter": [self.filter]}}
            searches.append(_Search(qid, _body(query, self.num_results, self._fields), factor))
        return {search.qid: hits for search, hits in self._answers(searches)}

    def _frame(self, queries: pd.DataFrame, found: list[list[dict[str, Any]]]) -> pd.DataFrame:
        counts = [len(hits) for hits in found]
        rows = [hit for hits in found for hit in hits]
        columns: dict[str, Any] = {DOCNO: pd.Series([hit[DOCNO] for hit in rows], dtype="str")}
        columns |= {field: pd.Series([hit["_source"].get(field) for hit in rows], dtype=object) for field in self._fields}
        columns["rank"] = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
        columns["score"] = np.array([hit["score"] for hit in rows], dtype=np.float64)
        repeated = queries.iloc[np.repeat(np.arange(len(queries)), counts)].reset_index(drop=True)
        return repeated.assign(**columns)


class OpenSearchRetriever(ClusterRetriever):
    """Retrieves by the dot product of query weights and impacts.

    Scores are sums of products in Lucene's single precision, within 1e-6 of the exact ones; documents with equal scores are in
    the order of their docnos. A query without a term of the index (empty, None, weights of 0, unknown terms only) has no rows
    in the result.
    """

    _column, _factory = "query_toks", "retriever"

    def _check(self, queries: pd.DataFrame) -> bool:
        return any([check_weights(toks, qid) for qid, toks in zip(queries["qid"], queries["query_toks"])])

    def _queries(self, queries: pd.DataFrame, metadata: Metadata) -> Iterator[_Query]:
        check_contracts(queries, metadata.contract, str(self.index.remote))
        for qid, toks in zip(queries["qid"], queries["query_toks"]):
            if weights := _named(check_weights(toks, qid), self.index.remote.names):
                yield qid, *impact_query(weights, qid)


class BM25Retriever(ClusterRetriever):
    """Retrieves by BM25 (Lucene's, k1 = 1.2, b = 0.75) on the text field of an index.

    A query is text without syntax. Statistics are gathered from all shards first, so scores do not depend on the number of
    shards. A query has no rows in the result if the analyzer drops all of its words.
    """

    schematic = {"label": "OpenSearch BM25", "help_url": None}
    _column, _factory = "query", "bm25"
    _header = {"search_type": "dfs_query_then_fetch"}

    def _check(self, queries: pd.DataFrame) -> bool:
        return len(check_plain_queries(queries["query"].tolist(), [f"query {qid!r}" for qid in queries["qid"]])) > 0

    def _queries(self, queries: pd.DataFrame, metadata: Metadata) -> Iterator[_Query]:
        if metadata.text is None:
            raise ImpactIndexError(f"{self.index.remote} has no text to search: toks_indexer(text='text') indexes it")
        for qid, query in zip(queries["qid"], queries["query"]):
            yield qid, {"match": {metadata.text: {"query": query}}}, 1.0


class OpenSearchScorer(_ClusterTransformer):
    """Scores documents by the dot product of the query's weights and the impacts in the index.

    Rows keep their order; among equal scores, the first row ranks first. A document without a term of the query has the score
    0.
    """

    _factory = "scorer"

    def __init__(self, index: ClusterIndex, *, batch_size: int = 32, verbose: bool = False) -> None:
        """Create a scorer; :meth:`OpenSearchIndex.scorer` explains the arguments."""
        super().__init__(index, batch_size=batch_size, verbose=verbose)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``score`` and ``rank``, or replace them.

        Args:
            inp: Results with ``qid``, ``query_toks`` and ``docno``.

        Raises:
            ContractError: A query comes from another encoder than the documents.
            DataError: A weight is negative or not finite, or a document is not in the index; the message names it.
            ImpactIndexError: There is no complete index, the cluster cannot be reached, or it refused a query.
        """
        pt.validate.columns(inp, includes=["qid", "query_toks", DOCNO], context=self)
        check_names(inp.columns)
        scores: dict[tuple[str, str], float] = {}
        if len(inp):
            scores = self.index.remote.read(partial(self._scores, inp.assign(qid=text_qids(inp))))
        rows = zip(inp["qid"].astype(str), inp[DOCNO])
        return pt.model.add_ranks(inp.assign(score=pd.Series([scores[row] for row in rows], index=inp.index, dtype="float64")))

    def _scores(self, frame: pd.DataFrame, metadata: Metadata) -> dict[tuple[str, str], float]:
        check_contracts(frame, metadata.contract, str(self.index.remote))
        scores: dict[tuple[str, str], float] = {}
        for search, hits in self._answers(list(self._searches(frame))):
            scores |= {(search.qid, hit[DOCNO]): hit["score"] for hit in hits}
            missing = next((docno for docno in search.docnos if (search.qid, docno) not in scores), None)
            if missing is not None:
                raise DataError(f"query {search.qid!r}: {self.index.remote} contains no document {missing!r}")
        return scores

    def _searches(self, frame: pd.DataFrame) -> Iterator[_Search]:
        for qid, rows in frame.groupby("qid", sort=False):
            qid, toks = str(qid), rows["query_toks"].tolist()
            weights = check_weights(toks[0], qid)
            if any(check_weights(other, qid) != weights for other in toks if other is not toks[0]):
                raise DataError(f"query {qid!r} has several query_toks: a qid names one query")
            named = _named(weights, self.index.remote.names)
            query, factor = impact_query(named, qid) if named else ({"bool": {}}, 1.0)
            query["bool"].pop("minimum_should_match", None)
            docnos = rows[DOCNO].drop_duplicates().tolist()
            for start in range(0, len(docnos), _DOCUMENTS):
                part = docnos[start : start + _DOCUMENTS]
                scored = {"bool": {**query["bool"], "filter": [{"terms": {DOCNO: part}}]}}
                yield _Search(qid, _body(scored, len(part)), factor, part)


class _Search(NamedTuple):
    """A search to send: its qid, its body, the factor of its scores, and the documents that it must find."""

    qid: str
    body: Mapping[str, Any]
    factor: float
    docnos: Sequence[str] = ()


def _refusal(answer: Mapping[str, Any], qid: str, index: RemoteIndex) -> ImpactIndexError:
    kind, reason = explain(answer)
    if kind in _TOO_MANY_TERMS or "maxclausecount is set" in reason.lower():
        return ImpactIndexError(
            f"query {qid!r} has more terms than the cluster allows ({reason}): raise the cluster's limit with "
            "index.allow_query_terms(), or use fewer terms, for example with csplade.query_encoder(top_k=1024)"
        )
    return ImpactIndexError(f"{index} refused query {qid!r}: {kind}: {reason}")


def _body(query: Mapping[str, Any], size: int, fields: Sequence[str] = ()) -> dict[str, Any]:
    """Return the body of a search for the best documents, with equal scores in the order of the docnos.

    This order is the same for any number of shards. The docno is read from the sort value, which is five times as fast as
    reading it from the stored document; only the fields are read from there.
    """
    return {
        "size": size,
        "track_total_hits": False,
        "query": query,
        "sort": [{"_score": "desc"}, {DOCNO: "asc"}],
        **({"_source": list(fields)} if fields else {"_source": False, "stored_fields": "_none_"}),
    }


def _named(weights: Mapping[str, float], names: TermNames) -> dict[str, float]:
    """Return weights by the names of their terms, without terms that no document can have."""
    return {name: weight for term, weight in weights.items() if (name := names(term)) is not None}


def impact_query(weights: Mapping[str, float], qid: str) -> tuple[dict[str, Any], float]:
    """Return the query for the dot product with positive weights, and the factor of its scores.

    If weights are very large or small, all are multiplied by one power of two, which is exact.

    Args:
        weights: Name of a term to weight, at least one.
        qid: The query, for messages.

    Raises:
        DataError: The largest weight is 2**222 times the smallest, or nearly; up to 2**221 all are accepted.
    """
    largest, smallest = (math.frexp(value)[1] for value in (max(weights.values()), min(weights.values())))
    shift = 0
    if largest > _LARGEST_EXPONENT or smallest - 1 < _SMALLEST_EXPONENT:
        shift = _LARGEST_EXPONENT - largest
        if smallest + shift - 1 < _SMALLEST_EXPONENT:
            raise DataError(f"query {qid!r}: OpenSearch cannot add weights that differ by a factor of more than 1e66")
    clauses = [
        {"rank_feature": {"field": f"{IMPACTS}.{name}", "boost": math.ldexp(weight, shift), "linear": {}}}
        for name, weight in weights.items()
    ]
    return {"bool": {"should": clauses, "minimum_should_match": 1}}, math.ldexp(1.0, -shift)
