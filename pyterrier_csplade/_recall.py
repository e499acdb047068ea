"""Recall against exact search, for experiments with approximate algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ir_measures
import pandas as pd
import pyterrier as pt

# Scores of one document by two engines differ in the last digits, in which they were added up in another order.
_TOLERANCE = 1e-6


def exact_recall(exact: pd.DataFrame, k: int) -> Any:
    """Return a measure for ``pt.Experiment``: the share of the exact top ``k`` that a system keeps in its own top ``k``.

    Documents that tie with the k-th are as good as it, so ``exact`` should reach beyond ``k``. A query for which exact search
    finds nothing counts as 1.

    Example::

        exact = encoder >> index.retriever(algorithm="exhaustive", num_results=1000)
        pt.Experiment(systems, topics, qrels, [nDCG @ 10, exact_recall(exact(topics), k=10), "mrt"])

    Args:
        exact: Results of exact search: ``qid``, ``docno`` and ``score``.
        k: Depth, at least 1.

    Returns:
        A measure of ir_measures, named ``exact_recall@k``.

    Raises:
        ValueError: ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    pt.validate.columns(exact, includes=["qid", "docno", "score"])
    wanted = {str(qid): _top(rows, k) for qid, rows in exact.groupby("qid")}

    def recall(qrels: pd.DataFrame, run: pd.DataFrame) -> Iterator[tuple[str, float]]:
        found = {qid: set(rows["doc_id"].head(k)) for qid, rows in run.groupby("query_id")}
        for qid in qrels["query_id"].unique():
            documents, number = wanted.get(qid, (frozenset(), 0))
            hits = len(found.get(qid, set()) & documents)
            yield qid, min(hits, number) / number if number else 1.0

    return ir_measures.define(recall, name=f"exact_recall@{k}", support_cutoff=False)


def _top(rows: pd.DataFrame, k: int) -> tuple[frozenset[str], int]:
    """Return the documents that score at least as the k-th does, and how many of them a top k can hold."""
    rows = rows.sort_values("score", ascending=False, kind="stable")
    number = min(k, len(rows))
    threshold = rows["score"].iloc[number - 1]
    kept = rows["score"] >= threshold - _TOLERANCE * abs(threshold)
    return frozenset(rows.loc[kept, "docno"]), number
