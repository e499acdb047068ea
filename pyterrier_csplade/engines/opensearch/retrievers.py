"""What the retrievers on OpenSearch have in common: everything but the query."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade.vectors.checks import as_names, check_contracts, check_positive, check_weights, query_ids, text_qids

from .connection import explain
from .mapping import DOCNO, IMPACTS, Metadata, TermNames
from .remote import ServedIndex

# OpenSearch's index.max_result_window.
_MAX_RESULTS = 10_000


class EngineRetriever(pt.Transformer):
    """Retrieves from an index on OpenSearch: documents with equal scores come in the order of their docnos."""

    # The column of queries, the method of OpenSearchIndex that makes the retriever, and settings of its searches.
    _column: str
    _factory: str
    _header: Mapping[str, str] = {}

    def __init__(
        self,
        index: ServedIndex,
        *,
        num_results: int = 1000,
        filter: Mapping[str, Any] | None = None,
        include_fields: list[str] | None = None,
        batch_size: int = 32,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`OpenSearchIndex.retriever` explains the arguments."""
        check_positive(num_results=num_results, batch_size=batch_size)
        if num_results > _MAX_RESULTS:
            raise ValueError(f"num_results must be from 1 to {_MAX_RESULTS:,}, found {num_results}")
        if filter is not None and not isinstance(filter, Mapping):
            raise ValueError(
                f"filter must be a query of OpenSearch, such as {{'term': {{'book': 'physics'}}}}, found {filter!r}"
            )
        self.index = index
        self.num_results = num_results
        self.filter = filter
        self.include_fields = as_names(include_fields)
        self.batch_size = batch_size
        self.verbose = verbose

    def _bodies(self, queries: pd.DataFrame, metadata: Metadata) -> dict[str, tuple[dict[str, Any], float]]:
        """Return qid to query and factor of its scores; a qid may be missing if nothing can match it."""
        raise NotImplementedError

    def _check(self, queries: pd.DataFrame) -> bool:
        """Refuse queries that cannot be searched; return whether there is anything to search."""
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
            DataError: A query cannot be searched, or a qid is missing or stands twice.
            ImpactIndexError: There is no complete index, the cluster is not reached, or it refused a query; names it.
        """
        pt.validate.query_frame(inp, extra_columns=[self._column], context=self)
        queries = inp.drop(columns=self._new_columns, errors="ignore").assign(qid=query_ids(inp))
        found: dict[str, list[dict[str, Any]]] = {}
        if self._check(queries):
            found = self._search(queries, self.index.remote.open(self.index.names.scheme))
        return self._frame(queries, [found.get(qid, []) for qid in queries["qid"]])

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that queries need."""
        return [["qid", self._column]]

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """Return the columns of the result."""
        pt.validate.query_frame(input_columns, extra_columns=[self._column], context=self)
        return [column for column in input_columns if column not in self._new_columns] + self._new_columns

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return none: the index is where the results come from, not a step of a pipeline."""
        return {}

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """Push a rank cutoff into the search; never relaxes a stricter one."""
        return self if k >= self.num_results else pt.inspect.transformer_apply_attributes(self, num_results=k)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, EngineRetriever) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        values = {
            "num_results": (self.num_results, 1000),
            "filter": (self.filter, None),
            "include_fields": (self.include_fields, None),
            "batch_size": (self.batch_size, 32),
        }
        arguments = ", ".join(f"{name}={value!r}" for name, (value, default) in values.items() if value != default)
        return f"{self.index!r}.{self._factory}({arguments})"

    @property
    def _fields(self) -> list[str]:
        return [field for field in self.include_fields or () if field != DOCNO]

    @property
    def _new_columns(self) -> list[str]:
        return [DOCNO, *self._fields, "rank", "score"]

    def _identity(self) -> tuple[Any, ...]:
        filter = json.dumps(self.filter, sort_keys=True, default=repr)
        return (type(self), self.index.identity, self.num_results, filter, tuple(self._fields), self.batch_size)

    def _search(self, queries: pd.DataFrame, metadata: Metadata) -> dict[str, list[dict[str, Any]]]:
        """Return qid to hits, with ``score``."""
        missing = [field for field in self._fields if field not in metadata.fields]
        if missing:
            raise ImpactIndexError(f"{self.index.remote} stores no field {missing[0]!r}, only {', '.join(metadata.fields)}")
        bodies = self._bodies(queries, metadata)
        qids = list(bodies)
        found = {}
        for start in self._batches(len(qids)):
            batch = qids[start : start + self.batch_size]
            searches = [search_body(with_filter(bodies[qid][0], self.filter), self.num_results, self._fields) for qid in batch]
            for qid, answer in zip(batch, self.index.remote.search(searches, **self._header)):
                found[qid] = hits(answer, qid, self.index.remote, bodies[qid][1])
        return found

    def _batches(self, total: int) -> Iterator[int]:
        starts = range(0, total, self.batch_size)
        return iter(pt.tqdm(starts, desc=type(self).__name__, unit="batch") if self.verbose else starts)

    def _frame(self, queries: pd.DataFrame, found: list[list[dict[str, Any]]]) -> pd.DataFrame:
        counts = [len(rows) for rows in found]
        rows = [hit for rows in found for hit in rows]
        columns: dict[str, Any] = {DOCNO: pd.Series([hit[DOCNO] for hit in rows], dtype="str")}
        columns |= {field: pd.Series([hit["_source"].get(field) for hit in rows], dtype=object) for field in self._fields}
        columns["rank"] = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
        columns["score"] = np.array([hit["score"] for hit in rows], dtype=np.float64)
        repeated = queries.iloc[np.repeat(np.arange(len(queries)), counts)].reset_index(drop=True)
        return repeated.assign(**columns)


def hits(answer: Mapping[str, Any], qid: str, index: Any, factor: float = 1.0) -> list[dict[str, Any]]:
    """Return the hits of an answer with ``docno`` and ``score``.

    Raises:
        ImpactIndexError: The server refused the query; names it.
    """
    if "error" in answer:
        kind, reason = explain(answer)
        if "clause" in kind + reason.lower():
            raise ImpactIndexError(
                f"query {qid!r} has more terms than the cluster allows ({reason}): index.allow_query_terms() raises the limit "
                "of the cluster; or give it fewer, as csplade.query_encoder(top_k=1024) does"
            )
        raise ImpactIndexError(f"{index} refused query {qid!r}: {kind}: {reason}")
    found = answer.get("hits", {}).get("hits", [])
    return [{DOCNO: hit["sort"][1], "score": hit["sort"][0] * factor, "_source": hit.get("_source", {})} for hit in found]


class BM25Retriever(EngineRetriever):
    """Retrieves by BM25 (Lucene's, k1 = 1.2, b = 0.75) on the text field of an index.

    A query is text, never syntax. Its statistics are gathered from all shards first, so that scores do not depend on their
    number. A query of which the analyzer leaves nothing has no rows in the result.
    """

    schematic = {"label": "OpenSearch BM25", "help_url": None}
    _column, _factory = "query", "bm25"
    _header = {"search_type": "dfs_query_then_fetch"}

    def _check(self, queries: pd.DataFrame) -> bool:
        for qid, query in zip(queries["qid"], queries["query"]):
            if not isinstance(query, str):
                raise DataError(f"query {qid!r} must be a str, found {query!r}")
            try:
                query.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(f"query {qid!r} holds a lone surrogate, which UTF-8 cannot encode: remove it") from error
        return len(queries) > 0

    def _bodies(self, queries: pd.DataFrame, metadata: Metadata) -> dict[str, tuple[dict[str, Any], float]]:
        if metadata.text is None:
            raise ImpactIndexError(f"{self.index.remote} has no text to search: toks_indexer(text='text') indexes it")
        return {
            qid: ({"match": {metadata.text: {"query": query}}}, 1.0) for qid, query in zip(queries["qid"], queries["query"])
        }


# Lucene computes in single precision, whose numbers end at 2**128. Weights up to 2**96, times impacts up to 2**9, may be summed
# over any vocabulary; a weight below 2**-126 would lose digits.
_LARGEST_EXPONENT, _SMALLEST_EXPONENT = 96, -126


def impact_query(weights: Mapping[str, float], qid: str) -> tuple[dict[str, Any], float]:
    """Return the query for the dot product with positive weights, and the factor by which its scores are to be multiplied.

    Where weights are very large or small, all are multiplied by one power of two, which is exact.

    Args:
        weights: Name of a term to weight, at least one.
        qid: The query, for messages.

    Raises:
        DataError: The largest weight is 2**222 times the smallest, or nearly; up to 2**221 all are taken.
    """
    largest, smallest = (math.frexp(value)[1] for value in (max(weights.values()), min(weights.values())))
    shift = 0
    if largest > _LARGEST_EXPONENT or smallest - 1 < _SMALLEST_EXPONENT:
        shift = _LARGEST_EXPONENT - largest
        if smallest + shift - 1 < _SMALLEST_EXPONENT:
            raise DataError(f"query {qid!r}: OpenSearch cannot add weights as far apart as these, more than a factor of 1e66")
    clauses = [
        {"rank_feature": {"field": f"{IMPACTS}.{name}", "boost": math.ldexp(weight, shift), "linear": {}}}
        for name, weight in weights.items()
    ]
    return {"bool": {"should": clauses, "minimum_should_match": 1}}, math.ldexp(1.0, -shift)


def with_filter(query: Mapping[str, Any], filter: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a query whose results also match a filter."""
    return dict(query) if filter is None else {"bool": {"must": [query], "filter": [filter]}}


def search_body(query: Mapping[str, Any], size: int, fields: Sequence[str]) -> dict[str, Any]:
    """Return the body of a search: the best documents, of equal scores in the order of their docnos.

    That order is the same for any number of shards. The docno is read from the sort value, five times faster than from the
    stored document, which is read only for the fields.
    """
    return {
        "size": size,
        "track_total_hits": False,
        "query": query,
        "sort": [{"_score": "desc"}, {DOCNO: "asc"}],
        **({"_source": list(fields)} if fields else {"_source": False, "stored_fields": "_none_"}),
    }


class OpenSearchRetriever(EngineRetriever):
    """Retrieves by the dot product of query weights and impacts.

    Scores are sums of products in Lucene's single precision, within 1e-6 of the exact ones; documents with equal scores come
    in the order of their docnos. A query without a term of the index (empty, None, weights of 0, unknown terms only) has no
    rows in the result.
    """

    schematic = {"label": "OpenSearchRetriever", "help_url": None}
    _column, _factory = "query_toks", "retriever"

    def _check(self, queries: pd.DataFrame) -> bool:
        return any([check_weights(toks, qid) for qid, toks in zip(queries["qid"], queries["query_toks"])])

    def _bodies(self, queries: pd.DataFrame, metadata: Metadata) -> dict[str, tuple[dict[str, Any], float]]:
        check_contracts(queries, metadata.contract, str(self.index.remote))
        bodies = {}
        for qid, toks in zip(queries["qid"], queries["query_toks"]):
            weights = named_weights(toks, qid, self.index.names)
            if weights:
                bodies[qid] = impact_query(weights, qid)
        return bodies


def named_weights(toks: Any, qid: str, names: TermNames) -> Mapping[str, float]:
    """Return the weights above 0 of a query by the names of its terms; terms that no document can have are left out.

    Raises:
        DataError: A weight is negative or not finite.
    """
    named = {names(term): weight for term, weight in check_weights(toks, qid).items()}
    return {name: weight for name, weight in named.items() if name is not None}


# Documents of a search (ours): below OpenSearch's index.max_result_window of 10,000.
_DOCUMENTS = 1000


class OpenSearchScorer(pt.Transformer):
    """Scores documents by the dot product of the query's weights and the impacts in the index.

    Rows keep their order; of equal scores the first ranks first. A document without a term of the query has the score 0.
    """

    schematic = {"label": "OpenSearchScorer", "help_url": None}

    def __init__(self, index: ServedIndex, *, batch_size: int = 32, verbose: bool = False) -> None:
        """Create a scorer; :meth:`OpenSearchIndex.scorer` explains the arguments."""
        check_positive(batch_size=batch_size)
        self.index = index
        self.batch_size = batch_size
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``score`` and ``rank``, or replace them.

        Args:
            inp: Results with ``qid``, ``query_toks`` and ``docno``.

        Raises:
            ContractError: A query comes from another encoder than the documents.
            DataError: A weight is negative or not finite, or the index holds no such document; names it.
            ImpactIndexError: There is no complete index, the cluster is not reached, or it refused a query.
        """
        pt.validate.columns(inp, includes=["qid", "query_toks", DOCNO], context=self)
        scores: dict[tuple[str, str], float] = {}
        if len(inp):
            frame = inp.assign(qid=text_qids(inp))
            metadata = self.index.remote.open(self.index.names.scheme)
            check_contracts(frame, metadata.contract, str(self.index.remote))
            scores = self._scores(frame)
        rows = zip(inp["qid"].astype(str), inp[DOCNO])
        return pt.model.add_ranks(inp.assign(score=pd.Series([scores[row] for row in rows], index=inp.index, dtype="float64")))

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that results need."""
        return [["qid", "query_toks", DOCNO]]

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """Return the columns of the result."""
        pt.validate.columns(input_columns, includes=["qid", "query_toks", DOCNO], context=self)
        return [column for column in input_columns if column not in ("score", "rank")] + ["score", "rank"]

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return none: the index is where the results come from, not a step of a pipeline."""
        return {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OpenSearchScorer) and (self.index, self.batch_size) == (other.index, other.batch_size)

    def __hash__(self) -> int:
        return hash((OpenSearchScorer, self.index, self.batch_size))

    def __repr__(self) -> str:
        return f"{self.index!r}.scorer({'' if self.batch_size == 32 else f'batch_size={self.batch_size}'})"

    def _scores(self, frame: pd.DataFrame) -> dict[tuple[str, str], float]:
        searches = list(self._searches(frame))
        starts = range(0, len(searches), self.batch_size)
        scores: dict[tuple[str, str], float] = {}
        for start in pt.tqdm(starts, desc="OpenSearchScorer", unit="batch") if self.verbose else starts:
            batch = searches[start : start + self.batch_size]
            for (qid, docnos, factor, _), answer in zip(batch, self.index.remote.search([search[3] for search in batch])):
                found = {hit[DOCNO]: hit["score"] for hit in hits(answer, qid, self.index.remote, factor)}
                missing = next((docno for docno in docnos if docno not in found), None)
                if missing is not None:
                    raise DataError(f"query {qid!r}: {self.index.remote} holds no document {missing!r}")
                scores |= {(qid, docno): found[docno] for docno in docnos}
        return scores

    def _searches(self, frame: pd.DataFrame) -> Iterator[tuple[str, list[str], float, dict[str, Any]]]:
        """Yield qid, docnos, factor of the scores and body of each search."""
        for qid, rows in frame.groupby("qid", sort=False):
            toks = rows["query_toks"].tolist()
            weights = [check_weights(vector, str(qid)) for vector in toks if vector is not toks[0]]
            first = check_weights(toks[0], str(qid))
            if any(vector != first for vector in weights):
                raise DataError(f"query {qid!r} has several query_toks: a qid names one query")
            named = named_weights(toks[0], str(qid), self.index.names)
            query, factor = impact_query(named, str(qid)) if named else ({"bool": {}}, 1.0)
            query["bool"].pop("minimum_should_match", None)
            docnos = rows[DOCNO].drop_duplicates().tolist()
            for start in range(0, len(docnos), _DOCUMENTS):
                part = docnos[start : start + _DOCUMENTS]
                scored = {"bool": {**query["bool"], "filter": [{"terms": {DOCNO: part}}]}}
                yield str(qid), part, factor, search_body(scored, len(part), [])
