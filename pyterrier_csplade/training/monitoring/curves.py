"""Plots of the training curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.training.trainer import LOG_FILE

# fmt: off
# The figures of each panel. Figures that a run did not log are left out.
_PANELS = {
    "loss": ("loss", "rank_loss", "kl_loss", "margin_mse", "clm", "relu", "lexical"),
    "active terms": ("nnz_query", "nnz_document", "eval_nnz_query", "eval_nnz_document"),
    "FLOPS": ("flops_query", "flops_document"),
    "share": ("accuracy", "empty_query", "empty_document", "positive_logits", "live_targets"),
    "terms and positions": ("dead_terms", "top_position_share"),
    "lexical grounding": (
        "grounding_query", "grounding_document", "own_weight_query", "own_weight_document", "own_live_query",
        "own_live_document", "own_live", "eval_grounding_query", "eval_grounding_document", "eval_own_weight_query",
        "eval_own_weight_document", "eval_own_live_query", "eval_own_live_document",
    ),
    "lambda": ("lambda_query", "lambda_document"),
    "temperature": ("temperature", "score_spread"),
    "restricted to own tokens": ("restricted",),
    "index size (MB)": ("eval_index_mb",),
    "mean highest score": ("max_score",),
    "learning rate": ("learning_rate",),
}
# fmt: on
_LOGARITHMIC = ("loss", "active terms", "FLOPS", "lambda", "temperature")


def plot_curves(run: str | Path) -> Path:
    """Plot the training curves of a finished or unfinished run.

    Args:
        run: The run's ``output`` directory.

    Returns:
        The path of the plot, ``training_curves.png`` in that directory.

    Raises:
        DataError: The directory has no training log.
    """
    # pyplot would change the backend and the figures of a notebook.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    log = Path(run) / LOG_FILE
    if not log.is_file():
        raise DataError(f"there is no {LOG_FILE} in {run}: name the output directory of a run that has logged a step")
    points = json.loads(log.read_text(encoding="utf-8"))
    panels = _panels(points)
    figure = Figure(figsize=(10, 3 * -(-len(panels) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False)
    for axis, (title, names) in zip(axes.flat, panels.items()):
        _draw(axis, title, names, points)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    picture = log.with_name("training_curves.png")
    figure.savefig(picture, dpi=120)
    return picture


def _panels(points: list[dict[str, float]]) -> dict[str, list[str]]:
    """Return the logged figures of each panel by title. The measures of validation share a panel."""
    logged = {name for point in points for name in point}
    named = {name for names in _PANELS.values() for name in names}
    measures = sorted(name for name in logged if name.startswith("eval_") and name not in named)
    panels = {**_PANELS, "validation": tuple(measures)}
    return {title: shown for title, names in panels.items() if (shown := [name for name in names if name in logged])}


def _draw(axis: Any, title: str, names: list[str], points: list[dict[str, float]]) -> None:
    for name in names:
        shown = [(point["step"], point[name]) for point in points if name in point]
        axis.plot(*zip(*shown), marker="." if name.startswith("eval_") else None, label=name.replace("_", " "))
    if title in _LOGARITHMIC and any(point.get(name, 0) > 0 for point in points for name in names):
        axis.set_yscale("log")
    axis.set_title(title)
    axis.set_xlabel("optimizer steps")
    axis.grid(alpha=0.3)
    axis.legend()
