"""Plots of results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ir_measures
import pandas as pd
import pyterrier as pt

from ._errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Axis labels of the costs that this package measures.
_COSTS = {"mrt": "mean response time (ms per query)", "MB": "index on disk (MB)"}
# What pt.Experiment adds to a measure's name when it compares systems with a baseline.
_COMPARISONS = (" +", " -", " p-value", " reject", " p-value corrected")


def plot_tradeoff(
    results: pd.DataFrame,
    path: str | Path | None = None,
    *,
    measures: Sequence[str] | None = None,
    cost: str = "mrt",
    title: str = "",
) -> Figure:
    """Draw effectiveness, and recall against exact search, over latency or another cost.

    One panel for each measure, one line for each system. A system is a row of ``pt.Experiment``'s table, or all rows that
    share a value of the column ``system``, if there is one; then ``label`` names the dots, such as the settings of an
    algorithm. Latency is drawn on a logarithmic scale.

    Example::

        knobs = {f"bmp, alpha={a}": encoder >> index.retriever(algorithm="bmp", alpha=a) for a in (0.7, 0.8, 0.9, 1.0)}
        measures = [nDCG @ 10, exact_recall(exact(queries), k=10), "mrt"]
        plot_tradeoff(pt.Experiment(knobs, topics, qrels, measures), "tradeoff.png")

    Args:
        results: One row for each setting: ``name`` or ``system``, perhaps ``label``, the cost and the measures.
        path: Where to save the picture; the suffix says the format. None saves nothing.
        measures: Columns to draw. By default all numbers but the cost and comparisons with a baseline.
        cost: Column of the horizontal axis: "mrt", "MB" or any other.
        title: Heading of the picture.

    Returns:
        The figure, which a notebook shows.

    Raises:
        DataError: There is no row, no system, no cost or no measure, or a cost on a logarithmic scale is not above 0.
    """
    # The figure is made without pyplot, so a notebook keeps the backend and the figures that it has.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    system = "system" if "system" in results.columns else "name"
    drawn = _measures(results, system, cost) if measures is None else list(measures)
    _check(results, [system, cost, *drawn], cost)
    figure = Figure(figsize=(7 * len(drawn), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, measure in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn):
        for name, rows in results.groupby(system, sort=False):
            _draw(axis, str(name), rows.sort_values(cost), cost, measure)
        axis.set(xlabel=_COSTS.get(cost, cost), ylabel=measure)
        axis.margins(0.12)
        if cost == "mrt":
            axis.set_xscale("log")
        else:
            axis.set_xlim(left=0)
        axis.grid(alpha=0.3, which="both")
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw(axis: Any, name: str, rows: pd.DataFrame, cost: str, measure: str) -> None:
    axis.plot(rows[cost], rows[measure], marker="o", label=name)
    for label, x, y in zip(rows.get("label", ()), rows[cost], rows[measure]):
        axis.annotate(label, (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize="small")


def _measures(results: pd.DataFrame, system: str, cost: str) -> list[str]:
    numbers = results.select_dtypes("number").columns
    return [str(c) for c in numbers if c not in (system, cost, "label") and not str(c).endswith(_COMPARISONS)]


def _check(results: pd.DataFrame, columns: list[str], cost: str) -> None:
    missing = [column for column in columns if column not in results.columns]
    if missing or len(columns) == 2:
        found = ", ".join(map(repr, results.columns))
        raise DataError(f"a tradeoff needs {', '.join(map(repr, missing)) or 'a measure'} in the results, found {found}")
    if results.empty:
        raise DataError("there are no results to draw")
    if cost == "mrt" and not (results[cost] > 0).all():
        raise DataError(f"{cost} must be above 0 in every row")


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
