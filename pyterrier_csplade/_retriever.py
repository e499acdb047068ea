"""Exact retrieval from an impact index."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from ._contract import Contract
from ._documents import is_index_term
from ._errors import ContractError, DataError, ImpactIndexError
from ._java import summary

if TYPE_CHECKING:
    from ._index import ImpactIndex

# Too long for Terrier's lexicon, so never a term of an index.
_NO_TERM = "\u00e9" * 31

# The heaviest weight that a query may have (ours): scores then stay below the largest double, 2**1024.
_MAX_WEIGHT = 2.0**512

# Terrier reads weights with six decimals, which is exact for whole numbers: doubles from 2**53 on. Scaled to lie between the
# two, weights may differ by a factor of 1e285.
_WHOLE = 53
_LARGEST = 1000


class ImpactRetriever(pt.Transformer):
    """Retrieves by the dot product of query weights and impacts.

    Scores are the sums of the products in double precision; documents with equal scores come in the order of indexing. A query
    without a term of the index (empty, None, weights of 0, unknown terms only) has no rows in the result.
    """

    schematic = {"label": "ImpactRetriever", "help_url": None}

    def __init__(
        self,
        impact_index: ImpactIndex,
        *,
        num_results: int = 1000,
        exact_scores: bool = True,
        include_fields: list[str] | None = None,
        threads: int = 1,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`ImpactIndex.retriever` explains the arguments."""
        if num_results < 1:
            raise ValueError(f"num_results must be at least 1, found {num_results}")
        self.impact_index = impact_index
        self.num_results = num_results
        self.exact_scores = exact_scores
        self.include_fields = include_fields
        self.threads = threads
        self.verbose = verbose
        self._opened: tuple[Any, pt.Transformer] | None = None

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search.

        Args:
            inp: Queries with ``qid`` and ``query_toks`` (term to weight).

        Returns:
            The input's columns (a ``docid``, ``score`` or ``rank`` is replaced), ``docid``, ``docno``, the included fields,
            ``rank`` and ``score``, in the order of the queries.

        Raises:
            ContractError: The queries come from another encoder than the documents.
            DataError: A weight is negative or not finite, or a qid stands twice.
            ImpactIndexError: There is no index, it is damaged, or Terrier failed.
        """
        pt.validate.query_frame(inp, extra_columns=["query_toks"], context=self)
        queries = inp.drop(columns=self._new_columns, errors="ignore").assign(qid=inp["qid"].astype(str))
        _check_unique(queries["qid"])
        weights = {qid: _check_weights(toks, qid) for qid, toks in zip(queries["qid"], queries["query_toks"])}
        weights = {qid: query for qid, query in weights.items() if query}
        if weights:
            self._check_contracts(queries)
            weights = self._known(weights)
        results = self._search(weights) if weights else _no_results(self._new_columns)
        ranked: pd.DataFrame = queries.merge(results.astype({"qid": queries["qid"].dtype}), on="qid")
        return ranked

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that queries need."""
        return [["qid", "query_toks"]]

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """Return the columns of the result."""
        pt.validate.query_frame(input_columns, extra_columns=["query_toks"], context=self)
        return [column for column in input_columns if column not in self._new_columns] + self._new_columns

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """Push a rank cutoff into the search; never relaxes a stricter one."""
        return self if k >= self.num_results else pt.inspect.transformer_apply_attributes(self, num_results=k)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImpactRetriever) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        values = {
            "num_results": (self.num_results, 1000),
            "exact_scores": (self.exact_scores, True),
            "include_fields": (self.include_fields, None),
            "threads": (self.threads, 1),
        }
        arguments = ", ".join(f"{name}={value!r}" for name, (value, default) in values.items() if value != default)
        return f"{self.impact_index!r}.retriever({arguments})"

    @property
    def _fields(self) -> list[str]:
        return ["docno", *(field for field in self.include_fields or () if field != "docno")]

    @property
    def _new_columns(self) -> list[str]:
        return ["docid", *self._fields, "rank", "score"]

    def _identity(self) -> tuple[Any, ...]:
        return (
            self.impact_index.directory,
            self.impact_index.memory,
            self.num_results,
            self.exact_scores,
            tuple(self._fields),
            self.threads,
        )

    def _check_contracts(self, queries: pd.DataFrame) -> None:
        indexed = self.impact_index.contract
        accepted: Contract | None = None
        for qid, toks in zip(queries["qid"], queries["query_toks"]):
            contract = getattr(toks, "contract", None)
            if indexed is None or contract is None or contract is accepted:
                continue
            if contract.fingerprint != indexed.fingerprint:
                raise ContractError(
                    f"query {qid!r} was encoded by {contract.summary}, the documents of {self.impact_index.path} by "
                    f"{indexed.summary}: encode both with one model"
                )
            accepted = contract

    def _known(self, queries: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """Leave out the terms that the index does not hold, and the queries of which nothing is left."""
        lexicon = self.impact_index.index_obj().getLexicon()
        known = {
            qid: {term: weight for term, weight in query.items() if is_index_term(term) and term in lexicon}
            for qid, query in queries.items()
        }
        return {qid: query for qid, query in known.items() if query}

    def _search(self, queries: dict[str, dict[str, float]]) -> pd.DataFrame:
        scaled = {qid: _scale(query) if self.exact_scores else (query, 1.0) for qid, query in queries.items()}
        frame = pd.DataFrame({"qid": list(scaled), "query_toks": [query for query, _ in scaled.values()]})
        terrier = self._terrier()
        try:
            results: pd.DataFrame = terrier.transform(frame)
        except Exception as error:
            raise ImpactIndexError(f"Terrier could not search {self.impact_index.path}: {summary(error)}") from error
        factors = {qid: factor for qid, (_, factor) in scaled.items()}
        results["score"] = results["score"] * results["qid"].map(factors)
        return results.loc[:, ["qid", *self._new_columns]]

    def _terrier(self) -> pt.Transformer:
        index = self.impact_index.index_obj()
        if self._opened is None or self._opened[0] is not index:  # the index may have been built again
            stored = list(self.impact_index.meta_index().getKeys())
            missing = [field for field in self._fields if field not in stored]
            if missing:
                raise ImpactIndexError(f"{self.impact_index.path} has no field {missing[0]!r}, only {', '.join(stored)}")
            with warnings.catch_warnings():
                # Threads are said to be experimental because rows come in any order of the queries; ours are merged.
                warnings.filterwarnings("ignore", message="Multi-threaded|Upgrading")
                retriever = pt.terrier.Retriever(
                    # For threads Terrier changes the index object, which others use: let it open its own.
                    index if self.threads == 1 else str(self.impact_index.directory),
                    wmodel="Tf",
                    metadata=self._fields,
                    num_results=self.num_results,
                    threads=self.threads,
                    verbose=self.verbose,
                )
            self._opened = (index, retriever)
        return self._opened[1]


def _check_unique(qids: pd.Series) -> None:
    duplicates = qids[qids.duplicated()]
    if len(duplicates):
        raise DataError(f"qid {duplicates.iloc[0]!r} stands twice: a qid names one query")


def _check_weights(toks: object, qid: str) -> dict[str, float]:
    """Return the positive weights of a query."""
    if not isinstance(toks, Mapping):
        if toks is None or toks is pd.NA or (isinstance(toks, float) and math.isnan(toks)):
            return {}
        raise DataError(f"query {qid!r}: query_toks must be a dict of term to weight, found {toks!r}")
    for term, weight in toks.items():
        if not isinstance(term, str):
            raise DataError(f"query {qid!r}: terms must be str, found {term!r}")
        # Compared as a Python number: a float32 of numpy would turn the limit into infinity.
        value = int(weight) if isinstance(weight, Integral) else float(weight) if isinstance(weight, Real) else math.nan
        if not 0 <= value <= _MAX_WEIGHT:
            raise DataError(f"query {qid!r}: the weight of {term!r} must be a number from 0 to 1e154, found {weight!r}")
    return {term: float(weight) for term, weight in toks.items() if weight > 0}


def _scale(query: dict[str, float]) -> tuple[dict[str, float], float]:
    """Scale a query so that Terrier computes with its exact weights.

    Terrier prints the weights with six decimals and divides them by the largest. Powers of two make both exact: the weights are
    multiplied by one, and a term that no document has gets the next one above the largest weight.

    Returns:
        The weights for Terrier, and the factor by which its scores are the dot product.
    """
    above = math.frexp(max(query.values()))[1]
    shift = min(_WHOLE + 1 - math.frexp(min(query.values()))[1], _LARGEST - above)
    scaled = {term: math.ldexp(weight, shift) for term, weight in query.items()}
    return {**scaled, _NO_TERM: math.ldexp(1.0, above + shift)}, math.ldexp(1.0, above)


def _no_results(columns: list[str]) -> pd.DataFrame:
    dtypes = {"docid": "int64", "rank": "int64", "score": "float64"}
    return pd.DataFrame({column: pd.Series(dtype=dtypes.get(column, "str")) for column in ["qid", *columns]})
