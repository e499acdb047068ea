"""The examples run from start to end."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyterrier as pt
import pytest
from ir_measures import RR

from pyterrier_csplade import CSPLADE
from support.paths import ROOT
from support.texts import DOCUMENTS


def test_first_experiment_on_fifty_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has loaded most of what the script imports."""
    script = str(ROOT / "examples" / "first_experiment.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "out")])
    runpy.run_path(script, run_name="__main__")
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("name")
    # Fifty documents in random order have an nDCG@10 below 0.1.
    assert list(table.index) == ["BM25", "CSPLADE", "BM25 + CSPLADE"] and (table["nDCG@10"] > 0.3).all()
    assert "nDCG@10" in capsys.readouterr().out


def collection(directory: Path, documents: int) -> Path:
    """Write a slice of the documentation of Python's standard library, with two splits."""
    dataset = pt.get_dataset("csplade:python-docs")
    corpus = list(islice(dataset.get_corpus_iter(verbose=False), documents))
    topics = dict(zip(dataset.get_topics()["qid"], dataset.get_topics()["query"]))
    directory.mkdir()
    (directory / "docs.jsonl").write_text("".join(json.dumps(document) + "\n" for document in corpus))
    for split, start in (("", 0), (".dev", 1)):
        qids = [document["docno"] for document in corpus][start::2]
        (directory / f"topics{split}.tsv").write_text("".join(f"{qid}\t{topics[qid]}\n" for qid in qids))
        (directory / f"qrels{split}.txt").write_text("".join(f"{qid} 0 {qid} 1\n" for qid in qids))
    return directory


@pytest.mark.slow  # encodes documents, and starts the script twice
def test_baselines_make_a_table_and_resume(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, str(ROOT / "examples" / "baselines.py"), str(collection(tmp_path / "c", 60)), "--dev", "dev"]
    command += ["--rerank", "5", "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(output / "results.csv").set_index("system")
    names = ["BM25", "BM25 + RM3", "csplade-tiny", "BM25 & csplade-tiny, RRF", "BM25 & csplade-tiny, min-max"]
    assert list(table.index) == [*names, "BM25 >> csplade-tiny"]
    qrels = pt.io.read_qrels(str(tmp_path / "c" / "qrels.txt"))
    for name, file in (
        ("BM25", "BM25"),
        ("csplade-tiny", "csplade-tiny"),
        ("BM25 & csplade-tiny, RRF", "BM25___csplade-tiny__RRF"),
    ):
        ranks = pt.io.read_results(str(output / "runs" / f"{file}.run.gz")).merge(qrels, on=["qid", "docno"])["rank"]
        expected = sum(1 / (rank + 1) for rank in ranks if rank < 10) / len(qrels)
        assert float(str(table.loc[name, "RR@10"]).rstrip("†")) == pytest.approx(expected, abs=5e-4)
    assert (table["MB"].astype(float) > 0).all() and (table["ms/query"].astype(float) > 0).all()
    assert (output / "results.md").read_text().count("\n") == 2 + len(table)
    latex = (output / "results.tex").read_text()
    assert r"BM25 \& csplade-tiny, RRF & " in latex and latex.count(r" \\") == 1 + len(table)
    files = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file() and "results" not in file.name}
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    kept = {file: file.stat().st_mtime_ns for file in files}
    assert {file.name for file in files if kept[file] != files[file]} == set()
    assert pd.read_csv(output / "results.csv").set_index("system").equals(table)


@pytest.fixture
def baselines(csplade: CSPLADE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pd.DataFrame]:
    """The script in this process, with a random model."""
    monkeypatch.setattr(CSPLADE, "tiny", lambda **_: csplade)

    def run(*arguments: str) -> pd.DataFrame:
        script = ROOT / "examples" / "baselines.py"
        monkeypatch.setattr(sys, "argv", [script.name, *arguments, "--output", str(tmp_path / "out")])
        runpy.run_path(str(script), run_name="__main__")
        return pd.read_csv(tmp_path / "out" / "results.csv").set_index("system")

    return run


def trec_collection(directory: Path) -> Path:
    """Write documents, topics and judgements as TREC does."""
    directory.mkdir()
    rows = [f"<DOC>\n<DOCNO> {docno} </DOCNO>\n<TEXT>\n{text}\n</TEXT>\n</DOC>\n" for docno, text in DOCUMENTS.items()]
    (directory / "documents").write_text("".join(rows))
    topics = {"1": "inverted index", "2": "dogs and cats"}
    tops = "".join(f"<top>\n<num> Number: {qid}\n<title> {query}\n</top>\n" for qid, query in topics.items())
    (directory / "topics").write_text(tops)
    (directory / "qrels").write_text("1 0 d1 1\n2 0 d4 1\n2 0 d7 1\n")
    return directory


def test_baselines_over_trec_files(baselines: Callable[..., pd.DataFrame], tmp_path: Path) -> None:
    """Runs are kept, and made again where their settings or the queries have changed."""
    folder = trec_collection(tmp_path / "c")
    arguments = [str(folder), "--fields", "title", "body", "--rerank", "2"]
    table = baselines(*arguments)
    assert list(table.index) == ["BM25", "BM25 + RM3", "csplade-tiny", "BM25 & csplade-tiny, RRF", "BM25 >> csplade-tiny"]
    runs = tmp_path / "out" / "runs"
    times = {file.name: file.stat().st_mtime_ns for file in runs.glob("*.gz")}
    vectors = (tmp_path / "out" / "csplade-tiny.vectors" / "manifest.json").stat().st_mtime_ns

    def changed() -> set[str]:
        return {file.name for file in runs.glob("*.gz") if file.stat().st_mtime_ns != times[file.name]}

    (runs / "csplade-tiny.json").unlink()  # as if the run had not been finished
    baselines(*arguments)
    assert changed() == {"csplade-tiny.run.gz"}
    times["csplade-tiny.run.gz"] = (runs / "csplade-tiny.run.gz").stat().st_mtime_ns
    baselines(*arguments[:-1], "3")
    assert changed() == {"BM25____csplade-tiny.run.gz"}
    (folder / "topics").write_text((folder / "topics").read_text().replace("dogs and cats", "cats"))
    baselines(*arguments[:-1], "3")
    assert changed() == times.keys()
    assert (tmp_path / "out" / "csplade-tiny.vectors" / "manifest.json").stat().st_mtime_ns == vectors
    with pytest.raises(SystemExit, match=r"baselines.py: .*out belongs to .*'fields': \['title', 'body'\].*another --output"):
        baselines(str(folder), "--fields", "body")


def test_a_dagger_needs_a_difference() -> None:
    """One system equals BM25 on every query, one is worse on each of them."""
    compare = runpy.run_path(str(ROOT / "examples" / "baselines.py"), run_name="baselines")["compare"]
    qids = [str(number) for number in range(12)]
    topics = pd.DataFrame({"qid": qids, "query": "dogs"})
    qrels = pd.DataFrame({"qid": qids, "docno": "d1", "label": 1})

    def results(ranks: list[int]) -> pd.DataFrame:
        rows = [(qid, f"d{n}", -float(n)) for qid, rank in zip(qids, ranks) for n in range(2 - rank, 6)]
        return pt.model.add_ranks(pd.DataFrame(rows, columns=["qid", "docno", "score"]))

    runs = {"BM25": results([1] * 12), "same": results([1] * 12), "worse": results([2, 3, 4] * 4)}
    systems = [SimpleNamespace(name=name, megabytes=0.0) for name in runs]
    table = compare(systems, runs, dict.fromkeys(runs, 0.0), topics, qrels, [RR @ 10]).set_index("system")
    mean = (1 / 2 + 1 / 3 + 1 / 4) / 3
    assert table["RR@10"].to_dict() == {"BM25": "1.000", "same": "1.000", "worse": f"{mean:.3f}†"}


def test_baselines_refuse_two_models_of_one_name(
    baselines: Callable[..., pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        baselines("c", "--model", "a/checkpoint", "b/checkpoint")
    assert "two models are called checkpoint: rename the directory of one" in capsys.readouterr().err
