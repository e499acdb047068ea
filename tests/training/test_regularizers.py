"""The weights of the regularisers: the figures that a schedule observes, and its state in checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inside.training import contrastive
from pyterrier_csplade.training import train
from support.training_runs import contrastive_config, log_of, make_base


class Recorder:
    """A schedule whose weights depend on all observations."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def weights(self, step: int) -> tuple[float, float]:
        total = sum(nnz for _, nnz in self.seen)
        return 1e-4 * total, 2e-4 * total

    def observe(self, step: int, figures: Mapping[str, float]) -> None:
        self.seen.append((step, figures["nnz_document"]))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = [tuple(pair) for pair in state["seen"]]


def test_a_schedule_sees_every_step_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path)
    schedules: list[Recorder] = []

    def make_schedule(_: Any) -> Recorder:
        schedules.append(Recorder())
        return schedules[-1]

    monkeypatch.setattr(contrastive, "make_schedule", make_schedule)
    settings: dict[str, Any] = {"steps": 4, "save_steps": 2}
    whole = train(contrastive_config(base, tmp_path / "whole", **settings))
    nnz = log_of(whole, "nnz_document")
    assert [step for step, _ in schedules[0].seen] == [1, 2, 3, 4]
    assert [value for _, value in schedules[0].seen] == pytest.approx(nnz)
    assert log_of(whole, "lambda_query") == pytest.approx([1e-4 * sum(nnz[:step]) for step in range(4)])
    shutil.copytree(whole, tmp_path / "parts")
    newest = tmp_path / "parts/checkpoints/checkpoint-4"
    newest.rename(tmp_path / "set-aside")
    parts = train(contrastive_config(base, tmp_path / "parts", **settings), resume=True)
    assert schedules[-1].seen == schedules[0].seen
    assert log_of(parts) == log_of(whole)
