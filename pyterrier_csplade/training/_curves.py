"""Plots of the training curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError

from ._trainer import LOG_FILE

# What shares a panel; figures that a run did not log are left out.
_PANELS = {
    "loss": ("loss", "rank_loss", "clm", "relu"),
    "active terms": ("nnz_query", "nnz_document"),
    "FLOPS": ("flops_query", "flops_document"),
    "share": ("accuracy", "empty_query", "empty_document", "positive_logits", "live_targets"),
    "mean highest score": ("max_score",),
    "learning rate": ("learning_rate",),
}
_LOGARITHMIC = ("loss", "active terms", "FLOPS")


def plot_curves(run: str | Path) -> Path:
    """Draw the curves of a run, finished or not.

    Args:
        run: The ``output`` directory of the run.

    Returns:
        The picture, ``training_curves.png`` in that directory.

    Raises:
        DataError: The directory holds no training log.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot

    log = Path(run) / LOG_FILE
    if not log.is_file():
        raise DataError(f"there is no {LOG_FILE} in {run}: nothing has been logged there")
    points = [point for point in json.loads(log.read_text(encoding="utf-8")) if "loss" in point]
    panels = {title: shown for title, names in _PANELS.items() if (shown := [n for n in names if any(n in p for p in points)])}
    figure, axes = pyplot.subplots(-(-len(panels) // 2), 2, figsize=(10, 3 * -(-len(panels) // 2)), squeeze=False)
    for axis, (title, names) in zip(axes.flat, panels.items()):
        _draw(axis, title, names, points)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.tight_layout()
    picture = log.with_name("training_curves.png")
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
    return picture


def _draw(axis: Any, title: str, names: list[str], points: list[dict[str, float]]) -> None:
    for name in names:
        shown = [(point["step"], point[name]) for point in points if name in point]
        axis.plot(*zip(*shown), label=name.replace("_", " "))
    if title in _LOGARITHMIC and any(point.get(name, 0) > 0 for point in points for name in names):
        axis.set_yscale("log")
    axis.set_title(title)
    axis.set_xlabel("optimizer steps")
    axis.grid(alpha=0.3)
    axis.legend()
