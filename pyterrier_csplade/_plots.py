"""Plots of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

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
