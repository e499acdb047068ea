"""Plots of results."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def plot_tradeoff(points: pd.DataFrame, path: Path, *, measure: str, title: str) -> None:
    """Draw effectiveness against the size of the index and save the picture.

    Args:
        points: One row for each index: ``system`` (each a line, or a dot if it has one row), ``label`` of the dot, ``MB``, and
            a column named as the measure.
        path: The picture; the suffix says the format.
        measure: Name of the measure.
        title: Heading of the picture.
    """
    # The figure is made without pyplot, so a notebook keeps the backend and the figures that it has.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    for system, rows in points.groupby("system", sort=False):
        rows = rows.sort_values("MB")
        axis.plot(rows["MB"], rows[measure], marker="o", label=system)
        for label, size, value in zip(rows["label"], rows["MB"], rows[measure]):
            axis.annotate(label, (size, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize="small")
    axis.set(xlabel="index on disk (MB)", ylabel=measure, title=title)
    axis.margins(0.12)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=150)
