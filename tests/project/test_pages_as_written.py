"""The tutorial and the commands of the pages on the command line run as they are written, with csplade-tiny."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from inside.cli import main
from support.pages import PAGES, ordered_blocks
from support.paths import ROOT
from support.texts import DOCUMENTS
from support.vector_collections import jsonl

#: Beginnings of commands that install something or need a network.
ELSEWHERE = (
    "git clone",
    "cd ",
    "python3 -m venv",
    "pip install",
    "python examples/mteb_model.py",
    "python examples/baselines.py beir/",
)


def blocks_of(name: str, *languages: str) -> list[tuple[str, str]]:
    return ordered_blocks(next(page for page in PAGES if page.stem == name), *languages)


def run_commands(block: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the lines of a console in this process, and return how many were run."""
    lines = [line[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
    own = [line for line in lines if not line.startswith(ELSEWHERE)]
    for line in own:
        program, *arguments = shlex.split(line)
        if program == "pyterrier-csplade":
            assert main(arguments) == 0, line
        else:
            assert program == "python", line
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    return len(own)


@pytest.mark.slow  # indexes and searches several times, and runs the script for the baselines
def test_the_tutorial_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    commands = 0
    for language, code in blocks_of("tutorial", "python", "console"):
        if language == "console":
            commands += run_commands(code, monkeypatch)
        else:
            exec(compile(code, "tutorial.rst", "exec"), names)
    assert commands == 4
    install = blocks_of("tutorial", "console")[0][1].replace(" && ", "\n$ ")
    assert install.count("$ ") == 3  # and the script for the table, as the page counts
    assert set(pt.io.read_results("pets.run")["qid"].astype(str)) == {"1", "2"}
    assert list(names["table"]["name"]) == ["BM25", "CSPLADE", "hybrid"]
    assert pd.read_csv("pets.results/results.csv")["system"].tolist()[:3] == ["BM25", "BM25 + RM3", "csplade-tiny"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the commands read, in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("my-collection").mkdir()
    for docs in ("docs.jsonl", "my-collection/docs.jsonl"):
        jsonl(Path(docs), [{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()])
    topics = "1\tinverted index\n2\tdogs and cats\n"
    qrels = "1 0 d1 1\n2 0 d4 1\n"
    for name, content in (
        ("topics.tsv", topics),
        ("train.tsv", topics),
        ("my-collection/topics.train.tsv", topics),
        ("train.qrels", qrels),
        ("my-collection/qrels.train.txt", qrels),
    ):
        Path(name).write_text(content)
    ranked = [(qid, docno, 9.0 - rank, rank) for qid in ("1", "2") for rank, docno in enumerate(DOCUMENTS)]
    run = pd.DataFrame(ranked, columns=["qid", "docno", "score", "rank"])
    for name in ("bm25.run", "teacher.run"):
        pt.io.write_results(run, name)
    return tmp_path


@pytest.mark.slow  # eleven commands
def test_commands_run_as_written(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyterrier_ciff")
    pytest.importorskip("sentence_transformers")
    commands = 0
    for _, code in blocks_of("command-line", "console"):
        if "vectors.jsonl --output" in code:  # of another encoder, or of the same one
            assert main(["export", "anserini", "docs.csplade.vectors", "--output", "vectors.jsonl"]) == 0
        commands += run_commands(code, monkeypatch)
        Path("vectors.jsonl").unlink(missing_ok=True)
    assert commands == 11
    assert set(pt.io.read_results("csplade.run")["qid"].astype(str)) == {"1", "2"}
    assert {"docs.ciff", "docs.top64", "embeddings", "csplade-tiny-encoder"} <= {file.name for file in files.iterdir()}
    rows = [json.loads(line) for line in Path("train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["positive_passages"][0]["docid"] for row in rows] == ["d1", "d4"]
