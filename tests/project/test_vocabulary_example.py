"""The experiment over vocabularies runs from beginning to end, and a second call repeats no step."""

from __future__ import annotations

import gzip
import json
import runpy
import sys
from pathlib import Path

import pytest

from support.encodings import SENTENCES
from support.paths import ROOT
from support.vocabularies import save_model


def save_collection(directory: Path) -> Path:
    directory.mkdir()
    rows = [{"docno": f"d{n}", "text": " ".join([text] * 6)} for n, text in enumerate(SENTENCES)]
    with gzip.open(directory / "docs.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    for suffix in ("", ".train"):
        (directory / f"topics{suffix}.tsv").write_text("q1\theart disease\nq2\taspirin\n")
        (directory / f"qrels{suffix}.txt").write_text("q1 0 d0 1\nq2 0 d3 1\n")
    triples = [{"qid": "q1", "pos": ["d0"], "neg": ["d4", "d2"]}, {"qid": "q2", "pos": ["d3"], "neg": ["d5", "d1"]}]
    with gzip.open(directory / "train.triples.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in triples))
    return directory


@pytest.mark.slow
def test_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model, collection, output = save_model(tmp_path / "base"), save_collection(tmp_path / "heart"), tmp_path / "runs"
    arguments = ["--model", model, "--collections", collection, "--output", output, "--adapt-steps", 1, "--train-steps", 2]
    arguments += ["--batch-size", 2, "--no-bf16", "--arms", "cased", "cased-folded", "lower-cut", "corpus-8k"]
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / "vocabulary" / "run.py"), run_name="__main__")
    said = capsys.readouterr().out
    for arm in ("cased-42", "cased-folded-42", "lower-cut-42", "corpus-8k-42"):
        assert arm in said
    results = {path.parent.name: json.loads(path.read_text()) for path in output.glob("*/result-heart.json")}
    assert results["cased-folded-42"]["distinct_terms"] < results["cased-42"]["distinct_terms"]
    changed = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    runpy.run_path(str(ROOT / "examples" / "vocabulary" / "run.py"), run_name="__main__")
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == changed
