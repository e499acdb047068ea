"""Base class of all retrievers of an impact index: everything except the search."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._settings import CheckedAttribute
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.vectors.checks import as_names, check_columns, check_contracts, check_weights, positive, query_ids
from pyterrier_csplade.vectors.impacts import ImpactVector

from .stored import MadeByIndex, StoredIndex


class IndexRetriever(MadeByIndex):
    """Retrieves by the dot product of query weights and impacts.

    Documents with equal scores are in the order of indexing. A query without a term of the index (empty, None, weights of 0,
    unknown terms only) has no rows in the result.
    """

    _method = "retriever"

    #: Maximum number of documents for each query.
    num_results = CheckedAttribute(positive("num_results"))
    #: Metadata fields to return besides the docno; None for none.
    include_fields = CheckedAttribute(as_names)
    #: Number of threads to search with.
    threads = CheckedAttribute(positive("threads"))

    def __init__(
        self,
        impact_index: StoredIndex,
        *,
        num_results: int = 1000,
        include_fields: list[str] | None = None,
        threads: int = 1,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`ImpactIndex.retriever` explains the arguments."""
        super().__init__(impact_index)
        self.num_results = num_results
        self.include_fields = include_fields
        self.threads = threads
        self.verbose = verbose

    def _open(self) -> Any:
        """Return what is searched: an object with the ``contract`` of the documents, which does not change during a search."""
        raise NotImplementedError

    def _search(self, opened: Any, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        """Search with queries (qid to at least one weight above 0), some of whose terms may be missing from the index."""
        raise NotImplementedError

    def _read(self, opened: Any, field: str, docids: np.ndarray) -> Any:
        """Return a metadata field of documents, whose numbers may repeat: array or list of str."""
        raise NotImplementedError

    def set_parameter(self, name: str, value: Any) -> None:
        """Set an argument of the constructor, which checks it, for the next search.

        Raises:
            ValueError: There is no such argument, or its value is not valid.
        """
        try:
            changed = pt.inspect.transformer_apply_attributes(self, **{name: value})
        except pt.inspect.InspectError as error:
            raise ValueError(f"{self!r} has no parameter {name!r}") from error
        self.__dict__.update(changed.__dict__)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search.

        Args:
            inp: Queries with ``qid`` and ``query_toks`` (term to weight).

        Returns:
            The input's columns, ``docid``, ``docno``, the included fields, ``rank`` and ``score``, in the order of the queries.
            Columns of the input with one of these names are replaced.

        Raises:
            ContractError: The queries come from another encoder than the documents.
            DataError: A weight is negative or not finite, or a qid is missing or appears twice.
            ImpactIndexError: There is no index, it is damaged, or the search failed.
        """
        self._check_columns(list(inp.columns))
        return copy.copy(self)._results(inp)  # another thread may set parameters meanwhile

    def _results(self, inp: pd.DataFrame) -> pd.DataFrame:
        qids = query_ids(inp)
        weights = {qid: check_weights(toks, qid) for qid, toks in zip(qids, inp["query_toks"])}
        weights = {qid: query for qid, query in weights.items() if query}
        opened, hits = None, {}
        if weights:
            opened = self._open()
            check_contracts(inp, opened.contract, str(self.impact_index.path))
            hits = self._search(opened, weights)
        return self._frame(opened, inp.assign(qid=qids), [hits.get(qid, Hits.none()) for qid in qids])

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that queries need."""
        return [["qid", "query_toks"]]

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """Return the columns of the result."""
        self._check_columns(input_columns)
        return [column for column in input_columns if column not in self._new_columns] + self._new_columns

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """Apply a rank cutoff in the search, unless the search has a stricter one."""
        return self if k >= self.num_results else pt.inspect.transformer_apply_attributes(self, num_results=k)

    @property
    def _fields(self) -> list[str]:
        return ["docno", *(field for field in self.include_fields or () if field != "docno")]

    @property
    def _new_columns(self) -> list[str]:
        return ["docid", *self._fields, "rank", "score"]

    def _check_columns(self, columns: list[str]) -> None:
        check_columns(columns, ["qid", "query_toks"], self, without=["docno"])

    def _in_threads(self, search: Callable[[dict[str, float]], Hits], queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        """Search with each query, in several threads if ``threads`` is above 1."""
        with nullcontext() if self.threads == 1 else ThreadPoolExecutor(self.threads) as executor:
            run = map if executor is None else executor.map
            hits: Iterable[Hits] = run(search, queries.values())
            if self.verbose:
                hits = pt.tqdm(hits, desc=type(self).__name__, total=len(queries), unit="q")
            return dict(zip(queries, list(hits)))  # a list, so that the bar ends at the last query

    def _frame(self, opened: Any, queries: pd.DataFrame, hits: list[Hits]) -> pd.DataFrame:
        """Return a row for each hit: the query's columns and the new ones."""
        hits = [*hits, Hits.none()]  # determines the types of the arrays even without queries
        counts = [len(found.docids) for found in hits]
        docids = np.concatenate([found.docids for found in hits])
        # The frame is built once: each step of a chain of frames would take as long as searching a small collection.
        rows = np.repeat(np.arange(len(queries)), counts[:-1])
        # PyTerrier drops repeated queries of a result, for example in pt.text.mean_passage(), and a dict has no hash.
        vectors = [ImpactVector(toks) if type(toks) is dict else toks for toks in queries["query_toks"]]
        queries = queries.assign(query_toks=pd.Series(vectors, index=queries.index, dtype=object))
        columns = {name: queries[name].array.take(rows) for name in queries.columns if name not in self._new_columns}
        columns["docid"] = docids
        for field in self._fields:
            columns[field] = pd.Series(self._read(opened, field, docids) if len(docids) else [], dtype="str")
        columns["rank"] = np.concatenate([np.arange(count) for count in counts])
        columns["score"] = np.concatenate([found.scores for found in hits])
        return pd.DataFrame(columns, copy=False)
