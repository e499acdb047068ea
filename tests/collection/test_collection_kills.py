"""Encoding processes that are killed, and processes that share the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyterrier_csplade import CSPLADE, EncodedCollection
from support.models import language_model, tokenizer
from support.paths import TESTS
from support.vector_collections import content, documents, jsonl

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments(tmp_path: Path, kills: int, seed: int) -> None:
    """The collection has the same bytes as after an undisturbed run, and each kill costs at most one shard."""
    script = [sys.executable, str(TESTS / "support" / "kill_encoding.py"), str(tmp_path), str(kills), str(seed)]
    done = subprocess.run(script, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "c") == content(tmp_path / "whole" / "c")
    EncodedCollection(tmp_path / "c").verify()
    encoded = (tmp_path / "log").read_text().split()
    assert 40 <= len(encoded) <= 40 + kills
    assert len(set(encoded)) > kills // 2  # most kills found a process at work


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that encodes 400 documents in shards of ten; tests append the output."""
    directory = tmp_path_factory.mktemp("encoding")
    CSPLADE((language_model(), tokenizer())).save(directory / "model")
    docs = jsonl(directory / "docs.jsonl", documents(400))
    return ["encode", docs, "--model", str(directory / "model"), "--shard-size", "10", "--top-k", "12", "--output"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_keep_finished_shards(command: list[str], tmp_path: Path, number: int, status: int) -> None:
    process = subprocess.Popen([sys.executable, "-m", "pyterrier_csplade", *command, str(tmp_path / "c")], env=ENVIRONMENT)
    while not (tmp_path / "c" / "shard-000003.json").exists():
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(10) == status
    finished = len(list((tmp_path / "c").glob("shard-*.json")))
    assert 4 <= finished < 40
    run = [sys.executable, "-m", "pyterrier_csplade", *command]
    said = subprocess.run([*run, str(tmp_path / "c")], env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    assert f"shards of 10: {finished} already in" in said
    subprocess.run([*run, str(tmp_path / "whole")], env=ENVIRONMENT, check=True)
    assert content(tmp_path / "c") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "accelerate.commands.launch"])
def test_processes_of_one_machine(command: list[str], tmp_path: Path, launcher: str) -> None:
    run = [sys.executable, "-m", "pyterrier_csplade", *command]
    options = {
        "torch.distributed.run": ["--standalone", "--nproc-per-node", "2", "-m", "pyterrier_csplade"],
        "accelerate.commands.launch": ["--cpu", "--num_processes", "2", "-m", "pyterrier_csplade"],
    }[launcher]
    launch = [sys.executable, "-m", launcher, *options, *command, str(tmp_path / "c"), "--processes", "2"]
    done = subprocess.run(launch, env=ENVIRONMENT, capture_output=True, text=True)
    if launcher.startswith("accelerate"):  # starts a single process without a GPU, silently
        assert done.returncode and "the launcher started 1 process(es), not 2" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    subprocess.run([*run, str(tmp_path / "whole")], env=ENVIRONMENT, check=True)
    assert content(tmp_path / "c") == content(tmp_path / "whole")
