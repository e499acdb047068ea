"""Checkpoints survive kills and damage, and a resumed run ends as one that was never stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from inside.training import (
    CurvesTrainer,
    checkpoints,
    damage_of,
    last_checkpoint,
    prepared,
    publish,
    remove_old,
    trainer,
    unfinished,
)
from pyterrier_csplade import DataError
from pyterrier_csplade.cli import main
from pyterrier_csplade.training import TrainingInterruptedError, adapt, train
from support.paths import TESTS
from support.training_runs import adaptation_config, contrastive_config, log_of, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and training data."""
    return make_base(tmp_path_factory.mktemp("base"))


def write_checkpoint(directory: Path, step: int) -> Path:
    written = unfinished(directory) / f"checkpoint-{step}"
    (written / "parts").mkdir(parents=True)
    (written / "model.safetensors").write_bytes(bytes(range(200)))
    (written / "parts/optimizer.pt").write_text("state")
    publish(written, processes=1)
    return directory / f"checkpoint-{step}"


# ---------------------------------------------------------------------- damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Any] = {
    "model.safetensors has changed since it was written": lambda path: flip(path / "model.safetensors"),
    "model.safetensors has 100 bytes, not 200": lambda path: (path / "model.safetensors").write_bytes(bytes(100)),
    "parts/optimizer.pt is missing": lambda path: (path / "parts/optimizer.pt").unlink(),
    "it has no manifest.json, so it was not written completely": lambda path: (path / "manifest.json").unlink(),
    "manifest.json is damaged": lambda path: (path / "manifest.json").write_text('{"files": [1]}'),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, message: str) -> None:
    assert last_checkpoint(tmp_path) is None
    whole, newest = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == newest
    assert damage_of(newest) is None
    DAMAGES[message](newest)
    with pytest.warns(UserWarning, match=f"skipping .*checkpoint-10: .*{message}"):
        assert last_checkpoint(tmp_path) == whole


def test_an_unfinished_checkpoint_is_none(tmp_path: Path) -> None:
    (unfinished(tmp_path) / "checkpoint-5").mkdir(parents=True)
    assert last_checkpoint(tmp_path) is None


def test_a_checkpoint_is_sealed_in_its_place_as_often_as_it_is_written(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 5)
    (checkpoint / "model.safetensors").write_bytes(bytes(300))
    assert damage_of(checkpoint) is not None
    publish(checkpoint, processes=1)
    assert damage_of(checkpoint) is None and last_checkpoint(tmp_path) == checkpoint


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        write_checkpoint(tmp_path, step)
    remove_old(tmp_path, 2, best=4)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-4", "checkpoint-8"]
    remove_old(tmp_path, 1, best=None)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]


def test_a_run_keeps_the_best_checkpoint(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_done(self: CurvesTrainer, figures: dict[str, float]) -> None:
        self.state.best_global_step = 2 if self.state.global_step >= 2 else None

    monkeypatch.setattr(CurvesTrainer, "step_done", step_done)
    output = adapt(adaptation_config(base, tmp_path / "run", steps=6, save_steps=1, keep_checkpoints=1))
    assert sorted(path.name for path in (output / "checkpoints").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]


# ---------------------------------------------------------------------- stops

# Every state there is: ramps and document frequencies in the middle of growing, dropout, two epochs, points of the curves that
# are means of several steps.
SETTINGS: dict[str, Any] = {
    "steps": 8, "batch_size": 8, "save_steps": 2, "logging_steps": 3, "lora": {"rank": 2, "dropout": 0.5},
    "document_regularizer": "df_flops", "df_steps": 3, "flops_warmup_steps": 6, "keep_checkpoints": 10,
}  # fmt: skip


def write_config(base: Path, output: Path) -> Path:
    settings = {"model": str(base / "llama"), "data": str(base / "rows.jsonl"), "output": str(output), "negatives": 2}
    path = output.with_suffix(".json")
    path.write_text(json.dumps(settings | {"learning_rate": 1e-2, "bf16": False, **SETTINGS}))
    return path


def check_same_end(first: Path, second: Path, but: str = "") -> None:
    figures = ("loss", "grad_norm", "rank_loss", "lambda_document", "df_flops_document", "nnz_document")
    for name in (*figures, "dead_terms", "top_position_share"):
        assert name == but or log_of(first, name) == log_of(second, name), name
    assert (first / "top_terms.jsonl").read_text() == (second / "top_terms.jsonl").read_text()
    weights = [load_file(run / "model.safetensors") for run in (first, second)]
    assert all(torch.equal(values, weights[1][name]) for name, values in weights[0].items())


@pytest.fixture(scope="module")
def whole(base: Path) -> Path:
    """A run that was not stopped."""
    assert main(["train", str(write_config(base, base / "whole"))]) == 0
    return base / "whole"


@contextmanager
def signals(at: int, *numbers: int) -> Iterator[None]:
    """Send signals to the process at the end of a step, one a second and a bit after the other."""
    end_step = CurvesTrainer.end_step

    def signalled(self: CurvesTrainer) -> None:
        if self.state.global_step == at:
            for place, number in enumerate(numbers):
                time.sleep(1.1 if place else 0)
                os.kill(os.getpid(), number)
        end_step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CurvesTrainer, "end_step", signalled)
        yield


@pytest.mark.parametrize(
    ("last", "number"),
    [
        (3, signal.SIGINT),
        (4, signal.SIGTERM),
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(7, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_exactly(
    base: Path, whole: Path, tmp_path: Path, last: int, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(base, tmp_path / "run")
    with signals(last, number):
        assert main(["train", str(config)]) == 128 + number
    said = capsys.readouterr().err
    assert f"stopped by signal {number} after step {last}, with a checkpoint in" in said
    assert "The run stops after this step and saves a checkpoint. Ctrl-C again stops it at once" in said
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    newest = last_checkpoint(tmp_path / "run/checkpoints")
    assert newest is not None and newest.name == f"checkpoint-{last}"
    assert main(["train", str(config)]) == 2
    assert f"which reached step {last} of 8: resume that run (resume=True, --resume)" in capsys.readouterr().err
    assert main(["train", str(config), "--resume"]) == 0
    check_same_end(whole, tmp_path / "run")


def test_a_second_ctrl_c_stops_at_once(base: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(base, tmp_path / "run")
    with signals(5, signal.SIGINT, signal.SIGINT):
        assert main(["train", str(config)]) == 130
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    newest = last_checkpoint(tmp_path / "run/checkpoints")
    assert newest is not None and newest.name == "checkpoint-4"
    shutil.rmtree(tmp_path / "run/checkpoints")
    capsys.readouterr()
    with signals(1, signal.SIGTERM):
        assert main(["train", str(config)]) == 143
    assert "training_log.json belongs to an earlier run without a checkpoint to resume from" in capsys.readouterr().err


def test_a_host_program_keeps_its_own_handling_of_ctrl_c(base: Path, tmp_path: Path) -> None:
    found: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: found.append(number))
    try:
        with signals(1, signal.SIGINT):
            train(contrastive_config(base, tmp_path / "run"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [signal.SIGINT] and (tmp_path / "run/model.safetensors").is_file()


def test_a_run_resumes_exactly_without_the_private_interfaces_of_transformers(
    base: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints are then sealed in their place, and the first loss after resuming is a mean over fewer steps."""
    for name, value in (("_WRITES_ASIDE", False), ("_LOSS_SUM", "_none"), ("_LOSS_START", "_none")):
        monkeypatch.setattr(trainer, name, value)
    config = write_config(base, tmp_path / "run")
    with signals(4, signal.SIGTERM):
        assert main(["train", str(config)]) == 143
    assert not unfinished(tmp_path / "run/checkpoints").exists()
    assert last_checkpoint(tmp_path / "run/checkpoints") == tmp_path / "run/checkpoints/checkpoint-4"
    assert main(["train", str(config), "--resume"]) == 0
    check_same_end(whole, tmp_path / "run", but="loss")


@pytest.mark.parametrize("step", [6, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 4, 8))])
def test_every_checkpoint_leads_to_the_same_end(base: Path, whole: Path, tmp_path: Path, step: int) -> None:
    run = tmp_path / "whole"
    shutil.copytree(whole, run)
    config = write_config(base, run)
    for checkpoint in (run / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    (run / "model.safetensors").unlink()
    assert main(["train", str(config), "--resume"]) == 0
    check_same_end(whole, run)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_in_the_adaptation_phase(base: Path, tmp_path: Path, number: int) -> None:
    settings: dict[str, Any] = {"steps": 6, "save_steps": 100, "objective": "mntp", "mask_token": "!", "logging_steps": 2}
    uninterrupted = adapt(adaptation_config(base, tmp_path / "whole", **settings))
    with signals(3, number), pytest.raises(TrainingInterruptedError) as caught:
        adapt(adaptation_config(base, tmp_path / "run", **settings))
    assert caught.value.number == number
    run = adapt(adaptation_config(base, tmp_path / "run", **settings), resume=True)
    for name in ("loss", "clm", "relu", "grad_norm"):
        assert log_of(run, name) == log_of(uninterrupted, name)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.3, 1.0])
def test_sigkill_at_any_point(base: Path, whole: Path, tmp_path: Path, seconds: float) -> None:
    """The process dies some time after its first checkpoint begins to appear, and is then resumed to the end."""
    config = write_config(base, tmp_path / "run")
    command = [sys.executable, "-m", "pyterrier_csplade", "train", str(config), "--resume"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "run/checkpoints").glob("*")) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    process.kill()
    process.wait()
    assert main(["train", str(config), "--resume"]) == 0
    check_same_end(whole, tmp_path / "run")


def test_another_number_of_processes_is_said(base: Path, tmp_path: Path) -> None:
    config = contrastive_config(base, tmp_path / "run", steps=2, save_steps=1)
    train(config)
    manifest = tmp_path / "run/checkpoints/checkpoint-2/manifest.json"
    manifest.write_text(manifest.read_text().replace('"processes": 1', '"processes": 4'))
    with pytest.warns(UserWarning, match="checkpoint-2 was written by 4 processes, but this run has 1"):
        train(config, resume=True)


@pytest.mark.parametrize("phase", ["contrastive", pytest.param("adaptation", marks=pytest.mark.slow)])
def test_settings_that_changed_are_said(base: Path, tmp_path: Path, phase: str) -> None:
    go: Any = train if phase == "contrastive" else adapt
    make_config: Any = contrastive_config if phase == "contrastive" else adaptation_config
    go(make_config(base, tmp_path / "run", steps=2, save_steps=1))
    same = make_config(base, tmp_path / "run", steps=2, save_steps=5, logging_steps=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*other settings.*")
        go(same, resume=True)
    other = make_config(base, tmp_path / "run", steps=3, weight_decay=0.5)
    with pytest.warns(
        UserWarning, match=r"checkpoint-2 was written with other settings: steps 2 -> 3, weight_decay 0.\d+ -> 0.5"
    ):
        go(other, resume=True)


# ---------------------------------------------------------------------- the data of a resumed run


@pytest.mark.parametrize("phase", ["contrastive", "adaptation"])
def test_a_run_goes_on_with_the_data_it_began_with(tmp_path: Path, phase: str) -> None:
    folder = make_base(tmp_path)
    if phase == "contrastive":
        data = folder / "rows.jsonl"
        go: Any = partial(train, contrastive_config(folder, folder / "run", steps=2, save_steps=1))
    else:
        data = folder / "corpus.jsonl"
        go = partial(adapt, adaptation_config(folder, folder / "run", steps=2, save_steps=1))
    go()
    prepared_file = next(path for path in (folder / "run").iterdir() if path.name in ("rows.jsonl", "tokens.int32"))
    before = prepared_file.read_bytes()
    go(resume=True)
    assert prepared_file.read_bytes() == before
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[1:] + lines[:1]))
    with pytest.raises(DataError, match="run: the training data has changed since the run began"):
        go(resume=True)
    assert prepared_file.read_bytes() == before
    assert not list((folder / "run").glob("*.partial"))


def test_machines_that_share_a_directory_prepare_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with prepared(tmp_path / "rows.jsonl") as first:
        first.write(b"one\n")
        monkeypatch.setattr(checkpoints, "rank", lambda: 8)
        with prepared(tmp_path / "rows.jsonl") as second:
            second.write(b"one\ntwo\n")
        first.write(b"two\n")
    assert (tmp_path / "rows.jsonl").read_bytes() == b"one\ntwo\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


class Malice:
    """A pickle that makes a directory when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_cannot_run_code(
    base: Path, whole: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if its manifest fits."""
    run, trace = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(whole, run)
    for step in (6, 8):
        shutil.rmtree(run / f"checkpoints/checkpoint-{step}")
    written = unfinished(run / "checkpoints") / "checkpoint-4"
    written.parent.mkdir(exist_ok=True)
    (run / "checkpoints/checkpoint-4").rename(written)
    (written / "manifest.json").unlink()
    torch.save({"state": Malice(trace)}, written / name)
    publish(written, processes=1)
    assert last_checkpoint(run / "checkpoints") == run / "checkpoints/checkpoint-4"
    assert main(["train", str(write_config(base, run)), "--resume"]) == 2
    assert re.search("checkpoint-4 is not loaded, because it contains more than tensors .*mkdir", capsys.readouterr().err)
    assert not trace.exists()
