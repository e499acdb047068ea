"""What the retrievers on OpenSearch have in common: everything but the query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade._retrieval import as_names, check_positive, query_ids

from ._connection import explain
from ._mapping import DOCNO, Metadata
from ._queries import search_body, with_filter

if TYPE_CHECKING:
    from ._index import OpenSearchIndex

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
        index: OpenSearchIndex,
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
