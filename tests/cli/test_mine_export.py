"""The commands ``mine`` and ``export``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from inside.cli import main
from pyterrier_csplade import CSPLADE, ImpactIndex
from support.texts import DOCUMENTS
from support.vector_collections import jsonl


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in the form of a collection, a model, a run, and vectors."""
    from support.models import language_model, tokenizer

    path = tmp_path_factory.mktemp("place")
    CSPLADE((language_model(), tokenizer())).save(path / "model")
    (path / "c").mkdir()
    jsonl(path / "c" / "docs.jsonl", [{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()])
    (path / "c" / "topics.train.tsv").write_text("1\tinverted index\n2\tdogs and cats\n")
    (path / "c" / "qrels.train.txt").write_text("1 0 d1 1\n2 0 d4 1\n2 0 d7 1\n")
    run = [("1", docno, 8 - rank) for rank, docno in enumerate(("d2", "d1", "d3"))] + [("2", "d7", 9), ("2", "d6", 8)]
    (path / "bm25.run").write_text("".join(f"{qid} Q0 {docno} 0 {score} bm25\n" for qid, docno, score in run))
    (path / "teacher.run").write_text(
        "".join(f"{qid} Q0 {docno} 0 {number} t\n" for qid in "12" for number, docno in enumerate(DOCUMENTS))
    )
    jsonl(path / "v.jsonl", [{"docno": docno, "toks": {"dog": number + 1}} for number, docno in enumerate(DOCUMENTS)])
    return path


def test_negatives_of_a_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        f"mine {place}/c --split train --run {place}/bm25.run --teacher {place}/teacher.run --output {tmp_path}/t.jsonl.gz"
    )
    assert main(command.split()) == 0
    assert capsys.readouterr().out == f"training rows: {tmp_path}/t.jsonl.gz\n"
    rows = [json.loads(line) for line in gzip.open(tmp_path / "t.jsonl.gz", "rt")]
    found = {
        row["query_id"]: [
            [(passage["docid"], passage["text"], passage["score"]) for passage in row[f"{side}_passages"]]
            for side in ("positive", "negative")
        ]
        for row in rows
    }
    scores = {docno: float(number) for number, docno in enumerate(DOCUMENTS)}
    expected = {"1": [["d1"], ["d2", "d3"]], "2": [["d4", "d7"], ["d6"]]}
    assert found == {
        qid: [[(docno, DOCUMENTS[docno], scores[docno]) for docno in docnos] for docnos in sides]
        for qid, sides in expected.items()
    }


def test_negatives_of_an_index(place: Path, tmp_path: Path) -> None:
    """The same rows as from the run that ``search`` writes."""
    index, model = f"{tmp_path}/index", f"{place}/model"
    assert main(["index", f"{place}/c/docs.jsonl", "--model", model, "--output", index]) == 0
    topics = f"{place}/c/topics.train.tsv"
    assert main(["search", index, "--model", model, "--topics", topics, "--output", f"{tmp_path}/own.run"]) == 0
    for name, source in (("one", ["--index", index, "--model", model]), ("two", ["--run", f"{tmp_path}/own.run"])):
        command = ["mine", f"{place}/c", "--split", "train", *source, "--negatives", "3", "--depth", "4"]
        assert main([*command, "--output", f"{tmp_path}/{name}.jsonl"]) == 0
    one, two = ((tmp_path / f"{name}.jsonl").read_text() for name in ("one", "two"))
    assert one == two and one.count("\n") == 2


def test_vectors_for_other_tools(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file of vectors, and the same from an index of them."""
    assert main(["index", f"{place}/v.jsonl", "--output", f"{tmp_path}/index"]) == 0
    queries = jsonl(tmp_path / "t.jsonl", [{"qid": "q", "query_toks": {"dog": 2.0}}])
    for name, source in (("file", f"{place}/v.jsonl"), ("index", f"{tmp_path}/index")):
        (tmp_path / name).mkdir(exist_ok=True)
        assert main(["export", "anserini", source, "--output", f"{tmp_path}/{name}.vectors.jsonl"]) == 0
        assert main(["export", "lsr-benchmark", source, "--topics", queries, "--output", f"{tmp_path}/{name}.lsr"]) == 0
        lines = [json.loads(line) for line in (tmp_path / f"{name}.vectors.jsonl").read_text().splitlines()]
        assert {line["id"]: line["vector"] for line in lines} == {d: {"dog": n + 1} for n, d in enumerate(DOCUMENTS)}
        assert (tmp_path / f"{name}.lsr" / "query" / "query-ids.txt").read_text() == "q\n"
    assert f"exported 8 documents: {tmp_path}/index.lsr\n" in capsys.readouterr().out
    assert ImpactIndex(tmp_path / "index").contract is None


REFUSED = {
    "export anserini PLACE/c/docs.jsonl --output x": "contains texts, not vectors: encode them with pyterrier-csplade encode",
    "export anserini PLACE/v.jsonl --output PLACE/v.jsonl": "v.jsonl exists: choose another name, or remove it",
    "export lsr-benchmark PLACE/v.jsonl --output x": "--topics is required for lsr-benchmark",
    "export anserini PLACE/v.jsonl --topics PLACE/c/topics.train.tsv --output x": "--topics is required for lsr-benchmark",
    "export ciff PLACE/v.jsonl --output x": "the name of a CIFF file ends in .ciff",
    "export sentence-transformers nothing/there --output x": "'nothing/there' is not a directory",
    "export sentence-transformers one --model two --output x": "SOURCE one and --model two are different models",
    "mine PLACE/c --run PLACE/none.run --output x": "there is no run",
    "mine PLACE/c --run PLACE/bm25.run --output x": "contains no topics.tsv; it has topics.train.tsv",
    "mine PLACE/c --split train --index nothing --output x": "no index at nothing",
    "mine PLACE/c --split train --qrels PLACE/none --run PLACE/bm25.run --output x": "there is no file",
}


@pytest.mark.parametrize("option", ["--run", "--teacher"])
def test_a_run_that_cannot_be_read(place: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.run").write_text("1 Q0 d2\n")
    runs = {"--run": f"{place}/bm25.run"} | {option: f"{tmp_path}/bad.run"}
    assert main(["mine", f"{place}/c", "--split", "train", *sum(runs.items(), ()), "--output", f"{tmp_path}/x"]) == 2
    assert "bad.run, line 1: expected qid Q0 docno rank score tag" in capsys.readouterr().err


#: Vectors, and what the error holds that names them.
VECTORS = {
    f'{{"docno": "a", "toks": {{"b": 1{"0" * 400}}}}}': "the weight of 'b' must be finite and at least 0",
    '{"docno": "a", "toks": {"b\\ud800": 1}}': "contains a lone surrogate, which UTF-8 cannot encode",
    '{"docno": "a", "toks": {"": 1}}': "document 'a': a term must be a text that is not empty, found ''",
    '{"docno": "a", "toks": {"b": 1e300}}': "document 'a': float32 cannot hold the weight 1e+300 of 'b': scale the weights",
    '{"docno": "a", "toks": {"b": 1e-300}}': "document 'a': float32 cannot hold the weight 1e-300 of 'b': scale the weights",
}


@pytest.mark.parametrize("line", VECTORS)
def test_vectors_that_a_matrix_cannot_hold(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v.jsonl").write_text(f"{line}\n")
    queries = jsonl(tmp_path / "t.jsonl", [{"qid": "q", "query_toks": {"dog": 2.0}}])
    command = ["export", "lsr-benchmark", f"{tmp_path}/v.jsonl", "--topics", queries, "--output", f"{tmp_path}/out"]
    assert main(command) == 2
    assert VECTORS[line] in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "v.jsonl").write_text('{"docno": "a", "toks": {"b": 1}}\n')
    jsonl(tmp_path / "t.jsonl", [{"qid": "q\ud800", "query_toks": {"dog": 2.0}}])
    assert main(command) == 2 and "lone surrogate" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["index v.jsonl", "search idx --topics t", "mine c --run r"])
@pytest.mark.parametrize("output", ["", ".", "..", "a/.."])
def test_an_output_without_a_name(command: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--output", output])
    assert f"must be a path that ends in a name, found {output!r}" in capsys.readouterr().err


@pytest.mark.parametrize("command", REFUSED)
def test_refusals(
    command: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "ciff" in command:
        pytest.importorskip("pyterrier_ciff")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(command.replace("PLACE", str(place)).split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pyterrier-csplade: ") and REFUSED[command] in last
    assert not Path("x").exists()
