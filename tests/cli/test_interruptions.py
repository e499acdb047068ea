"""Ctrl-C in each long command: what was done is kept, the message says how to go on, and there is no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from support.models import TEXTS
from support.paths import TESTS
from support.pictures import saved_model
from support.training_runs import make_base
from support.vector_collections import documents, jsonl

#: Runs a command that says "held" before a call of one of its functions, and then waits.
HELD = """
import importlib, sys, time
module, name, calls, *command = sys.argv[1:]
*owners, attribute = name.split(".")
place = importlib.import_module(module)
for owner in owners:
    place = getattr(place, owner)
whole, seen = getattr(place, attribute), []
def held(*args, **kwargs):
    seen.append(1)
    if len(seen) == int(calls):
        sys.stdout.write("held\\n")
        sys.stdout.flush()
        time.sleep(5)
    return whole(*args, **kwargs)
setattr(place, attribute, held)
from pyterrier_csplade.cli import main
sys.exit(main(command))
"""
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
}  # fmt: skip


class Case(NamedTuple):
    """A command, the call before which it is interrupted, its message, and what is kept."""

    command: str
    module: str
    function: str
    calls: int
    message: str
    kept: Callable[[Path], bool]
    resume: str = ""


def nothing(place: Path) -> bool:
    """Whether there is neither an output nor a leftover."""
    return not [path.name for path in place.iterdir() if path.name.startswith((".", "new"))]


SAME = "run the same command again"
NOTHING = f"nothing was written: {SAME}"
ENCODER = ("pyterrier_csplade.model.encoder", "BatchEncoder.encode")
STEP = ("pyterrier_csplade.training.trainer", "CurvesTrainer.end_step", 3, "a checkpoint in new/checkpoints: resume with")
CASES = {
    "encode": Case(
        "encode docs.jsonl --model model --shard-size 4 --output new", *ENCODER, 3, f"{SAME}: finished shards are kept",
        lambda place: len(list(place.glob("new/shard-*.json"))) >= 1 and not (place / "new/manifest.json").exists(),
    ),
    "index": Case(
        "index docs.jsonl --model model --output new", "pyterrier_csplade.index.indexer", "_write_terrier_index", 1,
        f"{SAME}: encoded shards are kept, and an index is never left incomplete",
        lambda place: [path.name for path in place.glob("*new*")] == ["new.vectors"],
    ),
    "search": Case(
        "search index --model model --topics topics.tsv --output new", *ENCODER, 1, NOTHING, nothing
    ),
    "mine": Case(
        "mine . --topics topics.tsv --qrels qrels.txt --run results.run --output new", "pyterrier_csplade.training.mining",
        "_Miner.rows", 2, f"{SAME}: it resumes after the last query that was written",
        lambda place: (place / "new.partial").read_text().count("\n") == 32,
    ),
    "table": Case("table table.json", "pyterrier_csplade.queries.table", "fill", 1, NOTHING, nothing),
    "distil-query": Case(
        "distil-query distil.json", "pyterrier_csplade.training.query_distillation", "_Distillation._step", 2, NOTHING, nothing
    ),
    "vocabulary": Case(
        "vocabulary vocabulary.json", "pyterrier_csplade.training.vocabulary.stage", "rewrite", 1, NOTHING, nothing
    ),
    "export": Case(
        "export sentence-transformers model --output new", "pyterrier_csplade.model.export", "remove_traces", 1, NOTHING,
        nothing,
    ),
    "adapt": Case("adapt adapt.json", *STEP, lambda place: (place / "new/checkpoints/checkpoint-3").is_dir(), "--resume"),
    "train": Case("train train.json", *STEP, lambda place: (place / "new/checkpoints/checkpoint-3").is_dir(), "--resume"),
    "train-images": Case(
        "train-images images.json", *STEP, lambda place: (place / "new/checkpoints/checkpoint-3").is_dir(), "--resume"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the commands read."""
    from pyterrier_csplade import CSPLADE, ImpactIndex

    path = tmp_path_factory.mktemp("files")
    make_base(path)
    saved_model(path / "model")
    docs = documents(60)
    jsonl(path / "docs.jsonl", docs)
    (CSPLADE(path / "model").doc_encoder() >> ImpactIndex(path / "index")).index(docs)
    (path / "topics.tsv").write_text("".join(f"{i}\t{TEXTS[i % 5]} {i}\n" for i in range(40)))
    (path / "qrels.txt").write_text("".join(f"{i} 0 d{i} 1\n" for i in range(40)))
    (path / "results.run").write_text("".join(f"{i} Q0 d{i + k} {k} {9 - k} r\n" for i in range(40) for k in range(5)))
    rng = np.random.default_rng(0)
    pairs = [{"caption": text, "image_vec": rng.normal(size=6).round(3).tolist()} for text in TEXTS * 4]
    jsonl(path / "pairs.jsonl", pairs)
    steps: dict[str, Any] = {"output": "new", "steps": 5, "logging_steps": 1, "batch_size": 4, "report_to": []}
    run = {**steps, "learning_rate": 1e-3, "bf16": False}
    settings: dict[str, dict[str, Any]] = {
        "table": {"model": "model", "queries": "topics.tsv", "output": "new", "threshold": 1.5},
        "distil": {"model": "model", "queries": "topics.tsv", "output": "new", "layers": [0], "steps": 4, "batch_size": 4},
        "vocabulary": {"model": "llama", "output": "new", "kind": "cut", "corpus": "corpus.jsonl", "measured_documents": 0},
        "adapt": {**run, "model": "llama", "corpus": "corpus.jsonl", "sequence_length": 16},
        # With more points of the curves, the run of a random model would count as collapsed.
        "train": {**run, "model": "llama", "data": "rows.jsonl", "negatives": 1, "logging_steps": 5},
        "images": {**steps, "model": "model", "data": "pairs.jsonl", "hidden": 8, "most_co_activation": None},
    }
    for name, values in settings.items():
        (path / f"{name}.json").write_text(json.dumps(values))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ctrl_c(files: Path, tmp_path: Path, name: str) -> None:
    """The terminal sends SIGINT to all processes of a command; with the same command, it is then completed."""
    place, case = tmp_path / "place", CASES[name]
    place.mkdir()
    for path in files.iterdir():
        (place / path.name).symlink_to(path)
    start: dict[str, Any] = {"cwd": place, "env": ENVIRONMENT, "text": True, "stderr": subprocess.PIPE}
    held = [sys.executable, "-c", HELD, case.module, case.function, str(case.calls), *case.command.split()]
    process = subprocess.Popen(held, start_new_session=True, stdout=subprocess.PIPE, **start)
    assert process.stdout is not None
    while (line := process.stdout.readline()) not in ("held\n", ""):
        pass
    assert line, process.communicate()[1]
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    last = said.rstrip("\n").splitlines()[-1]
    assert last.startswith("pyterrier-csplade: ") and case.message in last
    assert "Traceback" not in said
    assert case.kept(place), sorted(path.name for path in place.iterdir())
    again = [sys.executable, "-m", "pyterrier_csplade", *case.command.split(), *case.resume.split()]
    done = subprocess.run(again, check=False, stdout=subprocess.DEVNULL, **start)
    assert done.returncode == 0, done.stderr
    assert (place / "new").exists() and not list(place.glob("new.partial*"))
