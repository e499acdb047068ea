"""Training runs that stop, and what makes them stop."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inside.training import CurvesTrainer, GradientCache, last_checkpoint, objective, ranking_loss, trainer
from pyterrier_csplade import ConfigError, DataError, TrainingError
from pyterrier_csplade.training import LoraSettings, adapt, train
from support.training_runs import LORA, adaptation_config, contrastive_config, log_of, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and training data."""
    return make_base(tmp_path_factory.mktemp("base"))


def check_resume(phase: Callable[..., Path], make_config: Callable[[Path], Any], tmp_path: Path) -> None:
    """A run that stopped in its fifth step and was resumed ends as one that did not stop; the steps cover two epochs."""
    whole = phase(make_config(tmp_path / "whole"))
    check = CurvesTrainer.check_finite

    def interrupted(self: CurvesTrainer, value: torch.Tensor, name: str) -> None:
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        check(self, value, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CurvesTrainer, "check_finite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            phase(make_config(tmp_path / "parts"))
    shutil.rmtree(tmp_path / "parts/checkpoints/checkpoint-4")
    parts = phase(make_config(tmp_path / "parts"), resume=True)
    for name in ("loss", "grad_norm", "learning_rate"):
        assert log_of(parts, name) == log_of(whole, name)
    first, second = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_adaptation_resumes_exactly(base: Path, tmp_path: Path) -> None:
    check_resume(adapt, lambda output: adaptation_config(base, output, steps=6, save_steps=2, batch_size=2), tmp_path)


@pytest.mark.parametrize(
    ("model", "lora"),
    [("llama-tied", None), pytest.param("llama", LoraSettings(rank=2, dropout=0.5), marks=pytest.mark.slow)],
)
def test_train_resumes_exactly(base: Path, tmp_path: Path, model: str, lora: LoraSettings | None) -> None:
    settings = {"steps": 7, "batch_size": 8, "save_steps": 2, "gradient_accumulation_steps": 2, "lora": lora}
    check_resume(train, lambda output: contrastive_config(base, output, model, **settings), tmp_path)


@pytest.mark.parametrize(
    ("phase", "lora"),
    [(train, LORA), (adapt, None), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((train, None), (adapt, LORA)))],
)
def test_resume_at_the_beginning_and_at_the_end(base: Path, tmp_path: Path, phase: Any, lora: LoraSettings | None) -> None:
    config = (contrastive_config if phase is train else adaptation_config)(base, tmp_path / "run", lora=lora, steps=2)
    weights = []
    for _ in range(2):
        output = phase(config, resume=True)
        assert len(log_of(output)) == 2
        weights.append(load_file(output / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("value", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_a_lost_loss_stops_the_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    steps = []

    def broken(*args: Any) -> Any:
        steps.append(1)
        return ranking_loss(*args) * (value if len(steps) == 3 else 1)

    monkeypatch.setattr(objective, "ranking_loss", broken)
    with pytest.raises(TrainingError, match=f"step 3: the loss is {value}"):
        train(contrastive_config(base, tmp_path / "run", steps=5))
    assert len(log_of(tmp_path / "run")) == 2


def test_a_lost_gradient_stops_the_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = GradientCache.backward

    def broken(self: GradientCache, gradient: torch.Tensor) -> None:
        backward(self, gradient)
        if len(list((tmp_path / "run/checkpoints").glob("checkpoint-*"))) == 2:
            next(self.model.parameters()).grad[0, 0] = math.nan

    monkeypatch.setattr(GradientCache, "backward", broken)
    with pytest.raises(TrainingError, match="step 3: the norm of the gradient is nan"):
        train(contrastive_config(base, tmp_path / "run", steps=5, save_steps=1))
    newest = last_checkpoint(tmp_path / "run/checkpoints")
    assert newest is not None and newest.name == "checkpoint-2"
    assert all(torch.isfinite(values).all() for values in load_file(newest / "model.safetensors").values())


def test_a_lost_gradient_stops_the_run_where_only_its_logged_norm_is_known(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_CHECKS_NORM", False)
    monkeypatch.delattr(CurvesTrainer, "_get_grad_norm")
    backward = GradientCache.backward

    def broken(self: GradientCache, gradient: torch.Tensor) -> None:
        backward(self, gradient)
        next(self.model.parameters()).grad[0, 0] = math.nan

    monkeypatch.setattr(GradientCache, "backward", broken)
    with pytest.raises(TrainingError, match="the norm of the gradient is nan"):
        train(contrastive_config(base, tmp_path / "run", save_steps=1))
    assert last_checkpoint(tmp_path / "run/checkpoints") is None


def test_checkpoints_of_another_run_are_not_mixed(base: Path, tmp_path: Path) -> None:
    config = contrastive_config(base, tmp_path / "run")
    train(config)
    with pytest.raises(
        ConfigError,
        match=r"run contains checkpoints of an earlier run, which reached step 2 of 2: resume that run",
    ):
        train(config)


@pytest.mark.parametrize("phase", [train, adapt])
def test_a_directory_has_one_run_at_a_time(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Any) -> None:
    end_step, refused = CurvesTrainer.end_step, []

    def second(self: CurvesTrainer) -> None:
        for go, make in others:
            with pytest.raises(ConfigError, match=f"process {os.getpid()} is training into .*run: wait until it ends"):
                go(make(base, tmp_path / "run"), resume=True)
            refused.append(go)
        end_step(self)

    others: Any = [(train, contrastive_config), (adapt, adaptation_config)]
    monkeypatch.setattr(CurvesTrainer, "end_step", second)
    config: Any = contrastive_config if phase is train else adaptation_config
    output = phase(config(base, tmp_path / "run", steps=1))
    assert refused == [train, adapt] and len(log_of(output)) == 1
    assert not list(output.glob(".*.lock"))


def test_less_data_than_a_batch(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data has 24 rows, fewer than a batch of 32: lower batch_size"):
        train(contrastive_config(base, tmp_path / "run", batch_size=32))
    with pytest.raises(DataError, match="a batch of 512: lower batch_size"):
        adapt(adaptation_config(base, tmp_path / "run", batch_size=512))
