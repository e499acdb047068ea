"""Settings of a run that validates on a small collection, and a comparison of two such runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from support import models
from support.training_runs import log_of, make_collection

# Steps in which retrieval gets better, then worse for the two validations after which the run stops.
VALIDATED: dict[str, Any] = {"learning_rate": 1e-2, "steps": 12}


def validation(base: Path) -> dict[str, Any]:
    """Return the settings of a validation on a small collection."""
    make_collection(base / "collection", docs=[{"docno": f"d{i}", "text": text} for i, text in enumerate(models.TEXTS * 2)])
    (base / "collection/topics.dev.tsv").write_text("a\tinverted index\nb\tdogs and cats\n")
    (base / "collection/qrels.dev.txt").write_text("a 0 d0 1\nb 0 d3 1\nb 0 d1 0\n")
    return {"collection": str(base / "collection"), "steps": 2, "documents": 8, "measures": ["RR@10", "nDCG@10"], "patience": 2}


def check_validated(one: Path, several: Path) -> None:
    """Check that figures, best step and its weights are the same."""
    for name in ("eval_RR@10", "eval_nDCG@10"):
        assert log_of(several, name) == log_of(one, name)
        assert len(set(log_of(one, name))) > 2
    kept = [sorted(path.name for path in (run / "checkpoints").glob("checkpoint-*")) for run in (one, several)]
    assert kept[0] == kept[1]
    best = 2 * (1 + int(torch.tensor(log_of(one, "eval_RR@10")).argmax()))
    assert best < 2 * len(log_of(one, "eval_RR@10")) and f"checkpoint-{best}" in kept[0]
    weights = [load_file(run / "model.safetensors") for run in (one, several)]
    for name, values in weights[0].items():
        # Another step is 1e-2 away, the learning rate; Adam makes as much as 2e-3 of the last bits of a gradient near 0.
        torch.testing.assert_close(weights[1][name], values, rtol=1e-3, atol=4e-3)
