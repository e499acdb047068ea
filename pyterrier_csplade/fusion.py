"""Hybrids: the results of several systems in one ranking."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import pyterrier as pt

from ._errors import DataError
from ._settings import Settings
from .vectors.checks import check_names, check_one_of, check_positive, query_ids, text_qids

#: How the scores of a system are normalised for each query.
Method: TypeAlias = Literal["rrf", "minmax", "zscore"]

# The constant of Cormack et al. (SIGIR 2009), section 2.
_RRF_K = 60
# Columns that differ between systems, and are not part of a hybrid's results.
_SYSTEM_COLUMNS = ("docid", "score", "rank")


def hybrid(
    *systems: pt.Transformer, method: Method = "rrf", weights: Sequence[float] | None = None, num_results: int = 1000
) -> Hybrid:
    """Combine systems into one ranking: a weighted sum of scores that are normalised for each query.

    Do not add the scores themselves: in ``bm25 + csplade``, CSPLADE's scores of about 1,000 outweigh BM25's of about 20.

    Example::

        from pyterrier_csplade import hybrid

        fused = hybrid(bm25, csplade.query_encoder() >> index.retriever())
        fused.search("inverted index")

    Args:
        *systems: Retrievers or re-rankers. Each gets the hybrid's input, so a system may rewrite the query, as RM3 does,
            without affecting the others.
        method: "rrf" is reciprocal rank fusion, 1 / (60 + rank) with ranks from 1 (Cormack et al., SIGIR 2009), which needs no
            tuning. "minmax" maps the scores of a query to the range from 0 to 1 (equal scores become 1). "zscore" subtracts
            their mean and divides by their standard deviation (equal scores become 0).
        weights: A weight for each system, at least 0; by default 1 for each. ``pt.GridScan`` can tune them.
        num_results: Maximum number of documents for each query.

    Returns:
        A transformer with the columns of its input's queries, ``docno``, ``score``, ``rank``, and further columns of documents
        that a system returns, such as ``text``. A document that a system does not retrieve gets 0; with "zscore", where 0 is
        the mean, it gets the system's lowest value for the query. Among equal scores, the first system's document ranks first.

    Raises:
        TypeError: A system is not a transformer.
        ValueError: There are fewer than two systems, there is no such method, or weights or ``num_results`` are not valid.
    """
    return Hybrid(*systems, method=method, weights=weights, num_results=num_results)


class Hybrid(Settings, pt.Transformer):
    """Combines the results of systems; made by :func:`hybrid`.

    Attributes:
        systems: The systems.
        method: How scores are normalised.
        num_results: Maximum number of documents for each query.
    """

    schematic = {"label": "Hybrid", "inner_pipelines_mode": "combine", "help_url": None}

    def __init__(
        self, *systems: pt.Transformer, method: Method = "rrf", weights: Sequence[float] | None = None, num_results: int = 1000
    ) -> None:
        """Create a hybrid; :func:`hybrid` explains the arguments."""
        self.systems = systems
        self.method = method
        self.weights = weights  # type: ignore[assignment]  # the property takes any numbers
        self.num_results = num_results
        self._check()

    @property
    def weights(self) -> Sequence[float] | None:
        """A weight for each system; None for equal ones."""
        return self._weights

    @weights.setter
    def weights(self, weights: Any) -> None:
        if weights is not None and not isinstance(weights, tuple):
            try:
                # An array cannot be compared as a whole, and an iterator is empty after its first use.
                weights = weights.tolist() if isinstance(weights, np.ndarray) else list(weights)
            except TypeError as error:
                raise ValueError(f"weights must be a list of numbers, found {weights!r:.80}") from error
        self._weights = weights

    def subtransformers(self) -> dict[str, list[pt.Transformer]]:
        """Return the systems."""
        return {"systems": list(self.systems)}

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search with every system, and combine the results.

        Args:
            inp: Queries, or results to re-rank.

        Raises:
            DataError: A query has no qid, or the qid of another one. A system returns no ``docno`` or ``score``, another query,
                a document twice for a query, or a score that is not finite.
        """
        weights = self._check()
        pt.validate.columns(inp, includes=["qid"], context=self)
        check_names(inp.columns)
        inp = inp.assign(qid=text_qids(inp) if "docno" in inp.columns else query_ids(inp))
        query_columns = _query_columns(inp)
        queries = inp[query_columns].drop_duplicates("qid").reset_index(drop=True)
        rankings = [_checked(system(inp), system, set(queries["qid"])) for system in self.systems]
        parts = [results.assign(part=weight * _NORMALISED[self.method](results)) for results, weight in zip(rankings, weights)]
        fused = _ranked(_summed(parts, lowest=self.method == "zscore"), list(queries["qid"]), self.num_results)
        documents = pd.concat([_document_columns(results, query_columns) for results in rankings])
        documents = documents.groupby(["qid", "docno"], sort=False).first().reset_index()
        return queries.merge(fused.merge(documents, on=["qid", "docno"], how="left"), on="qid")

    def _check(self) -> list[float]:
        """Return the weights; refuse invalid arguments, which may have been set after construction."""
        if len(self.systems) < 2:
            raise ValueError(f"a hybrid combines at least 2 systems, found {len(self.systems)}")
        for system in self.systems:
            if not isinstance(system, pt.Transformer):
                raise TypeError(f"a system must be a transformer, found {system!r:.60}")
        check_one_of("method", self.method, get_args(Method))
        check_positive(num_results=self.num_results)
        weights = [1.0] * len(self.systems) if self.weights is None else list(self.weights)
        if len(weights) != len(self.systems):
            raise ValueError(
                f"weights must have one number for each of {len(self.systems)} systems, found {self.weights!r:.80}"
            )
        if not all(isinstance(weight, Real) and 0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(f"weights must be finite, at least 0 and not all 0, found {self.weights!r:.80}")
        return [float(weight) for weight in weights]

    def _maker(self) -> str:
        return "hybrid"

    def _belongs_to(self) -> tuple[Any, ...]:
        return self.systems

    def _changed(self) -> list[str]:
        return [*map(repr, self.systems), *super()._changed()]

    def __str__(self) -> str:
        return self._named(*map(str, self.systems), *super()._changed())


def _query_columns(frame: pd.DataFrame) -> list[Any]:
    """Return the columns of queries. PyTerrier recognises them by their names, which must be text."""
    named = frame[[column for column in frame.columns if isinstance(column, str)]]
    found = pt.model.query_columns(named)
    return [column for column in named.columns if column in found]


def _checked(results: Any, system: pt.Transformer, qids: set[str]) -> pd.DataFrame:
    """Return results with scores as numbers, and with qids and docnos as text.

    Args:
        results: What a system returns.
        system: The system, for messages.
        qids: The qids of the queries that it was given.
    """
    if not isinstance(results, pd.DataFrame):
        raise DataError(f"{system} returns {type(results).__name__}, not a frame: it must rank documents")
    check_names(results.columns)
    for column in ("qid", "docno", "score"):
        if column not in results.columns:
            raise DataError(
                f"{system} returns no {column!r}, only {', '.join(map(str, results.columns))}: it must rank documents"
            )
    if (missing := results[["qid", "docno"]].isna().any(axis=1)).any():
        raise DataError(f"{system} returns a result without qid or docno: {results.loc[missing].iloc[0].to_dict()!r:.200}")
    results = results.assign(qid=results["qid"].astype(str), docno=results["docno"].astype(str))
    if (unknown := ~results["qid"].isin(qids)).any():
        raise DataError(
            f"{system} returns results of a query {results.loc[unknown, 'qid'].iloc[0]!r}, which it was not given: a system "
            "of a hybrid must keep qids"
        )
    twice = results.duplicated(["qid", "docno"])
    if twice.any():
        qid, docno = results.loc[twice, ["qid", "docno"]].iloc[0]
        raise DataError(
            f"{system} returns the document {docno!r} twice for the query {qid!r}: put pt.text.max_passage() after it"
        )
    try:
        scores = results["score"].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{system} returns scores that are not numbers ({error})") from error
    if not np.isfinite(scores).all():
        qid, docno = results.loc[~np.isfinite(scores), ["qid", "docno"]].iloc[0]
        raise DataError(f"{system} returns a score that is not finite for the query {qid!r}, document {docno!r}")
    return results.assign(score=scores)


def _reciprocal_ranks(results: pd.DataFrame) -> pd.Series:
    return 1 / (_RRF_K + results.groupby("qid")["score"].rank(ascending=False, method="first"))


def _minmax(results: pd.DataFrame) -> pd.Series:
    scores = results.groupby("qid")["score"]
    low, high = scores.transform("min"), scores.transform("max")
    return ((results["score"] - low) / (high - low)).fillna(1.0)


def _zscores(results: pd.DataFrame) -> pd.Series:
    scores = results.groupby("qid")["score"]
    mean, deviation = scores.transform("mean"), scores.transform("std", ddof=0)
    return ((results["score"] - mean) / deviation.where(deviation > 0)).fillna(0.0)


_NORMALISED: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "rrf": _reciprocal_ranks,
    "minmax": _minmax,
    "zscore": _zscores,
}


def _summed(parts: Sequence[pd.DataFrame], *, lowest: bool) -> pd.DataFrame:
    """Add up the parts of each document's score.

    Args:
        parts: Results of each system with ``part``, its share of the score.
        lowest: Whether a document that a system does not retrieve gets the system's lowest part for the query, instead of 0.
    """
    # Documents are in the order of their first appearance, in which equal scores are ranked.
    documents = pd.concat([part[["qid", "docno"]] for part in parts]).drop_duplicates().reset_index(drop=True)
    total = np.zeros(len(documents))
    for part in parts:
        shares = documents.merge(part[["qid", "docno", "part"]], on=["qid", "docno"], how="left")["part"]
        missing = documents["qid"].map(part.groupby("qid")["part"].min()).fillna(0.0) if lowest else 0.0
        total += shares.fillna(missing).to_numpy(dtype=np.float64)
    return documents.assign(score=total)


def _ranked(results: pd.DataFrame, qids: Sequence[Any], num_results: int) -> pd.DataFrame:
    """Sort by query, in the order of the queries, and by score, and cut each ranking."""
    position = results["qid"].map({qid: number for number, qid in enumerate(qids)})
    order = np.lexsort((-results["score"].to_numpy(), position.to_numpy()))
    results = results.iloc[order]
    results = results.assign(rank=results.groupby("qid", sort=False).cumcount() + pt.model.FIRST_RANK)
    return results[results["rank"] < num_results + pt.model.FIRST_RANK].reset_index(drop=True)


def _document_columns(results: pd.DataFrame, query_columns: Sequence[str]) -> pd.DataFrame:
    excluded = {*query_columns, *_query_columns(results), *_SYSTEM_COLUMNS}
    return results[["qid", *(column for column in results.columns if column not in excluded)]]
