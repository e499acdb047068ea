"""Evaluation of approximate search: recall against exact search, and plots of effectiveness over cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ir_measures
import pandas as pd
import pyterrier as pt

from ._errors import DataError
from .vectors.checks import check_names, check_positive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Axis labels of costs measured by this package.
_COSTS = {"mrt": "mean response time (ms per query)", "MB": "index on disk (MB)"}
# Endings that pt.Experiment adds to the name of a measure when it compares systems with a baseline.
_COMPARISONS = (" +", " -", " p-value", " reject", " p-value corrected")
# Relative difference below which scores are equal, because engines sum in different orders; our choice (not measured).
_TOLERANCE = 1e-6


def exact_recall(exact: pd.DataFrame, k: int) -> Any:
    """Return a measure for ``pt.Experiment``: the share of the exact top ``k`` that is in a system's top ``k``.

    Documents that tie with the k-th also count, so ``exact`` should contain more than ``k`` results. If exact search finds
    nothing for a query, the recall of the query is 1.

    Example::

        exact = encoder >> index.retriever(algorithm="exhaustive", num_results=1000)
        pt.Experiment(systems, topics, qrels, [nDCG @ 10, exact_recall(exact(topics), k=10), "mrt"])

    Args:
        exact: Results of exact search, with ``qid``, ``docno`` and ``score``.
        k: Depth, at least 1.

    Returns:
        A measure of ir_measures, named ``exact_recall@k``.

    Raises:
        ValueError: ``k`` is not a whole number of at least 1.
    """
    check_positive(k=k)
    pt.validate.columns(exact, includes=["qid", "docno", "score"])
    check_names(exact.columns)
    wanted = {str(qid): _top(rows, k) for qid, rows in exact.groupby("qid")}

    def recall(qrels: pd.DataFrame, run: pd.DataFrame) -> Iterator[tuple[str, float]]:
        found = {qid: set(rows["doc_id"].head(k)) for qid, rows in run.groupby("query_id")}
        for qid in qrels["query_id"].unique():
            documents, number = wanted.get(qid, (frozenset(), 0))
            hits = len(found.get(qid, set()) & documents)
            yield qid, min(hits, number) / number if number else 1.0

    return ir_measures.define(recall, name=f"exact_recall@{k}", support_cutoff=False)


def plot_tradeoff(
    results: pd.DataFrame,
    path: str | Path | None = None,
    *,
    measures: Sequence[str] | None = None,
    cost: str = "mrt",
    title: str = "",
) -> Figure:
    """Plot measures, such as nDCG@10 or recall against exact search, over latency or another cost.

    There is a panel for each measure and a line for each system. A system is a row of ``pt.Experiment``'s table. If the table
    has a column ``system``, rows with the same value form one system, and ``label`` names its points, for example by the
    settings of an algorithm. Latency has a logarithmic scale.

    Example::

        knobs = {f"bmp, alpha={a}": encoder >> index.retriever(algorithm="bmp", alpha=a) for a in (0.7, 0.8, 0.9, 1.0)}
        measures = [nDCG @ 10, exact_recall(exact(queries), k=10), "mrt"]
        plot_tradeoff(pt.Experiment(knobs, topics, qrels, measures), "tradeoff.png")

    Args:
        results: A row for each setting, with ``name`` or ``system``, the cost, the measures and optionally ``label``.
        path: File for the figure, in the format of its suffix; with None, no file is written.
        measures: Columns to plot; by default all numeric columns except the cost and comparisons with a baseline.
        cost: Column of the horizontal axis: "mrt", "MB" or any other.
        title: Title of the figure.

    Returns:
        The figure, which notebooks display.

    Raises:
        DataError: There are no rows, or no system, cost or measure, or a cost on a logarithmic scale is not above 0.
    """
    # pyplot is not used, because it would change a notebook's backend and open figures.
    from matplotlib.figure import Figure

    system = "system" if "system" in results.columns else "name"
    drawn = _measures(results, system, cost) if measures is None else list(measures)
    _check(results, [system, cost, *drawn], cost)
    figure = Figure(figsize=(7 * len(drawn), 4.5), layout="constrained")
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
    _show_as_written(figure)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _top(rows: pd.DataFrame, k: int) -> tuple[frozenset[str], int]:
    """Return the documents that score at least as high as the k-th, and the number of documents in a top k."""
    rows = rows.sort_values("score", ascending=False, kind="stable")
    number = min(k, len(rows))
    threshold = rows["score"].iloc[number - 1]
    kept = rows["score"] >= threshold - _TOLERANCE * abs(threshold)
    return frozenset(rows.loc[kept, "docno"]), number


def _draw(axis: Any, name: str, rows: pd.DataFrame, cost: str, measure: str) -> None:
    axis.plot(rows[cost], rows[measure], marker="o", label=name)
    for label, x, y in zip(rows.get("label", ()), rows[cost], rows[measure]):
        axis.annotate(str(label), (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize="small")


def _show_as_written(figure: Figure) -> None:
    """Show texts as they are if matplotlib would mistake them for formulas that it cannot parse, such as ``$x^$``."""
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    parser = MathTextParser("path")
    for text in figure.findobj(Text):
        try:
            parser.parse(text.get_text())
        except ValueError:
            text.set_parse_math(False)


def _measures(results: pd.DataFrame, system: str, cost: str) -> list[str]:
    numbers = results.select_dtypes("number").columns
    return [str(c) for c in numbers if c not in (system, cost, "label") and not str(c).endswith(_COMPARISONS)]


def _check(results: pd.DataFrame, columns: list[str], cost: str) -> None:
    missing = [column for column in columns if column not in results.columns]
    if missing or len(columns) == 2:
        columns_found = ", ".join(map(repr, results.columns))
        raise DataError(f"the results need {', '.join(map(repr, missing)) or 'a measure'}, found the columns {columns_found}")
    if results.empty:
        raise DataError("there are no results to plot: pass the table of pt.Experiment")
    if cost == "mrt" and not (results[cost] > 0).all():
        raise DataError(f"{cost} must be above 0 in every row")
