"""The experiment over vocabularies runs from beginning to end, and a second call repeats no step."""

from __future__ import annotations

import gzip
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyterrier_csplade import CSPLADE
from pyterrier_csplade.data import CollectionFiles, read_jsonl
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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a script; what it imports from its folder is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run_script(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / "vocabulary" / name), run_name="__main__")

    yield run_script
    for name in {"run", "untrained"} - before:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_arms(tmp_path: Path, run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    model, collection, output = save_model(tmp_path / "base"), save_collection(tmp_path / "heart"), tmp_path / "runs"
    shared = ["--model", model, "--collections", collection, "--output", output]
    arguments = [*shared, "--adapt-steps", 1, "--lexical-steps", 1, "--train-steps", 2, "--batch-size", 2, "--no-bf16"]
    arms = ["cased", "cased-folded", "words-cut", "corpus-8k"]
    run("run.py", *arguments, "--arms", *arms)
    said = capsys.readouterr().out
    assert all(f"{arm}-42" in said for arm in arms)
    results = {path.parent.name: json.loads(path.read_text()) for path in output.glob("*/result-heart.json")}
    assert results["cased-folded-42"]["distinct_terms"] < results["cased-42"]["distinct_terms"]
    changed = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    run("run.py", *arguments, "--arms", *arms)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == changed
    run("bm25.py", *shared, "--arms", "cased", "words-cut")
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")} == changed
    found = {path.stem: json.loads(path.read_text()) for path in output.glob("bm25/heart/*.json")}
    assert found.keys() == {"cased", "words-cut"} and found["words-cut"]["nDCG@10"] > 0.6
    assert found["words-cut"]["distinct_terms"] < found["cased"]["distinct_terms"]
    run("times.py", output, collection, "--rounds", 1, "--batch", 2)
    times = json.loads((output / "times.json").read_text())
    assert [row["arm"] for row in times] == sorted(f"{arm}-42" for arm in arms)
    assert all(row[algorithm] > 0 for row in times for algorithm in ("terrier", "exhaustive", "maxscore", "bmp"))
    assert [row["arm"] for row in times if row["documents_per_second"]] == [
        f"{arm}-42" for arm in sorted(arms) if arm != "cased-folded"
    ]
    run("figure.py", tmp_path / "figure.png", *output.glob("*/result-heart.json"), *output.glob("bm25/heart/*.json"))
    assert (tmp_path / "figure.png").stat().st_size > 5_000


@pytest.mark.slow
def test_a_smaller_collection_and_a_computed_model(tmp_path: Path, run: Callable[..., None]) -> None:
    sizes = ["--documents", 4, "--queries", 1, "--rows", 1, "--negatives", 1]
    run("sample.py", save_collection(tmp_path / "heart"), tmp_path / "small", *sizes)
    files = CollectionFiles(tmp_path / "small")
    docnos = {document["docno"] for document in files.documents()}
    (row,) = (row for _, row in read_jsonl(files.find("train.triples.jsonl")))
    qrels = files.qrels("test")
    assert len(docnos) == 4 and {*row["pos"], *row["neg"], *qrels["docno"]} <= docnos
    assert set(files.topics("test")["qid"]) == set(qrels["qid"]) and len(row["neg"]) == len(qrels) == 1
    run("base.py", tmp_path / "base", tmp_path / "small", "--size", 300, "--width", 16)
    csplade = CSPLADE(str(tmp_path / "base"), device="cpu")
    assert {"A", "a"} <= set(csplade.vocabulary)
    assert 0 < csplade.encode_docs(["The heart"]).nnz < len(csplade.vocabulary)
