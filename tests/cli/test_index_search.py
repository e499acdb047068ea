"""The commands ``index`` and ``search``: what they write, what they load, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from inside.cli import main
from pyterrier_csplade import CSPLADE, EncodedCollection, ImpactIndex
from support.texts import DOCUMENTS, dense
from support.vector_collections import jsonl

QUERIES = {"q1": "inverted index", "q2": "dogs and cats", "q3": "causal language models"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, documents, queries and an index, made by the command."""
    from support.models import language_model, tokenizer

    path = tmp_path_factory.mktemp("place")
    CSPLADE((language_model(), tokenizer())).save(path / "model")
    jsonl(path / "docs.jsonl", [{"_id": docno, "text": text, "title": docno.upper()} for docno, text in DOCUMENTS.items()])
    (path / "topics.tsv").write_text("".join(f"{qid}\t{query}\n" for qid, query in QUERIES.items()))
    command = f"index {path}/docs.jsonl --model {path}/model --output {path}/index --meta text title"
    assert main(command.split()) == 0
    return path


def expected_scores(place: Path) -> np.ndarray:
    """The dot products of rounded document weights and query weights, [queries, documents]."""
    csplade = CSPLADE(place / "model")
    impacts = np.floor(100 * dense(csplade.encode_docs(list(DOCUMENTS.values()))).astype(np.float32) + 0.5)
    return dense(csplade.encode_queries(list(QUERIES.values()))) @ impacts.T


def test_a_run_has_the_exact_scores(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, victim, planted = (tmp_path / name for name in ("a.run.gz", "victim", ".csplade-a.run.gz"))
    victim.write_text("mine")
    planted.symlink_to(victim)  # in the place of the temporary file of earlier versions
    command = f"search {place}/index --model {place}/model --topics {place}/topics.tsv --output {run} --tag"
    assert main([*command.split(), "first"]) == 0
    assert main([*command.split(), "mine"]) == 0  # a run is replaced
    assert f"results of 3 queries: {run}" in capsys.readouterr().out
    found = pt.io.read_results(str(run))
    assert set(found["name"]) == {"mine"} and victim.read_text() == "mine"
    assert {*tmp_path.iterdir()} == {run, victim, planted}
    scores = expected_scores(place)
    for row, qid in enumerate(QUERIES):
        rows = found[found["qid"] == qid]
        wanted = {docno: score for docno, score in zip(DOCUMENTS, scores[row]) if score > 0}
        assert dict(zip(rows["docno"], rows["score"])) == pytest.approx(wanted, rel=0.02, abs=1.0)
        assert rows["score"].is_monotonic_decreasing and rows["rank"].tolist() == list(range(len(rows)))


def test_terrier_finds_the_same(place: Path, tmp_path: Path) -> None:
    runs = []
    for algorithm in ("exhaustive", "terrier"):
        command = f"search {place}/index --model {place}/model --topics {place}/topics.tsv --num-results 5"
        assert main([*command.split(), "--algorithm", algorithm, "--output", str(tmp_path / algorithm)]) == 0
        runs.append(pt.io.read_results(str(tmp_path / algorithm)))
    assert runs[0]["docno"].tolist() == runs[1]["docno"].tolist() and len(runs[0]) == 15
    assert runs[0]["score"].tolist() == pytest.approx(runs[1]["score"].tolist(), rel=1e-4)


def test_one_query_is_explained(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", str(place / "index"), "dogs and cats", "--model", str(place / "model"), "--num-results", "2"]
    assert main([*command, "--show", "title"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    scores = expected_scores(place)[list(QUERIES).index("q2")]
    best = sorted(zip(DOCUMENTS, scores), key=lambda item: -item[1])[:2]
    assert first.startswith("query: ") and len(lines) == 4
    for number, (docno, score) in enumerate(best):
        rank, shown, name, *terms = lines[2 * number].split()
        assert (rank, name) == (str(number + 1), f"{docno}:") and float(shown) == pytest.approx(score, rel=0.02)
        assert any(term.endswith("%,") for term in terms)
        assert lines[2 * number + 1].strip() == f"title: {docno.upper()}"


def test_explanations_add_up_to_the_score(place: Path) -> None:
    csplade, index = CSPLADE(place / "model"), ImpactIndex(place / "index")
    topics = csplade.query_encoder()(pd.DataFrame({"qid": list(QUERIES), "query": list(QUERIES.values())}))
    results = index.retriever(algorithm="exhaustive")(topics)
    impacts = {document["docno"]: document["toks"] for document in index.get_corpus_iter()}
    for qid, docno, score in results[["qid", "docno", "score"]].to_numpy():
        toks = dict(zip(topics["qid"], topics["query_toks"]))[qid]
        parts = index.explain(toks, docno)
        assert parts == pytest.approx({term: toks[term] * impacts[docno][term] for term in toks if term in impacts[docno]})
        assert list(parts.values()) == sorted(parts.values(), reverse=True)
        assert sum(parts.values()) == pytest.approx(score)
    with pytest.raises(Exception, match="document 'd99' is not in"):
        index.explain({"a": 1.0}, "d99")


def test_vectors_are_indexed_and_searched_without_torch(place: Path, tmp_path: Path) -> None:
    """From an encoded collection, from a file of vectors, and for queries with vectors."""
    collection = EncodedCollection(place / "index.vectors")
    rows = [{"id": document["docno"], "contents": "", "vector": document["toks"]} for document in collection.get_corpus_iter()]
    vectors = jsonl(tmp_path / "vectors.jsonl", rows)
    topics = jsonl(tmp_path / "topics.jsonl", [{"qid": "q", "vector": rows[0]["vector"]}])
    code = (
        "import sys; from pyterrier_csplade.cli import main\n"
        f"assert main(['index', {str(place / 'index.vectors')!r}, '--output', {str(tmp_path / 'one')!r}]) == 0\n"
        f"assert main(['index', {vectors!r}, '--output', {str(tmp_path / 'two')!r}, '--top-k', '5']) == 0\n"
        f"command = ['search', {str(tmp_path / 'one')!r}, '--topics', {topics!r}, '--output', {str(tmp_path / 'run')!r}]\n"
        "assert main(command) == 0\n"
        "sys.exit(len({'torch', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = ({d["docno"]: d["toks"] for d in ImpactIndex(tmp_path / name).get_corpus_iter()} for name in ("one", "two"))
    assert one == {row["id"]: row["vector"] for row in rows}
    for docno, toks in two.items():
        assert sorted(toks.values()) == sorted(one[docno].values())[-5:]
    run = pt.io.read_results(str(tmp_path / "run"))
    wanted = {docno: sum(weight * one["d1"].get(term, 0) for term, weight in toks.items()) for docno, toks in one.items()}
    assert dict(zip(run["docno"], run["score"])) == pytest.approx({docno: score for docno, score in wanted.items() if score})


def test_an_interrupted_command_resumes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: ImpactIndex, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    command = f"index {place}/docs.jsonl --model {place}/model --output {tmp_path}/index".split()
    with monkeypatch.context() as patched:
        patched.setattr(ImpactIndex, "index_vectors", interrupt)
        assert main(command) == 130
    assert capsys.readouterr().err.endswith(
        "interrupted: run the same command again: encoded shards are kept, and an index is never left incomplete\n"
    )
    assert not (tmp_path / "index").exists()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "1 already in" in said and "0 to encode" in said and f"indexed 8 documents: {tmp_path}/index" in said


def test_an_index_is_replaced_only_on_demand(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["index", str(place / "index.vectors"), "--output", str(tmp_path / "index")]
    assert main(command) == 0 and main(command) == 2
    assert capsys.readouterr().err.endswith(f"there is an index at {tmp_path}/index: replace it with --overwrite\n")
    assert main([*command, "--overwrite", "--top-k", "2"]) == 0
    assert all(len(document["toks"]) == 2 for document in ImpactIndex(tmp_path / "index").get_corpus_iter())


REFUSED = {
    "search INDEX": "search needs either one QUERY, or --topics T --output RUN",
    "search INDEX dogs --topics TOPICS": "search needs either one QUERY, or --topics T --output RUN",
    "search INDEX --topics TOPICS": "--topics and --output must be used together",
    "search INDEX dogs --output x.run": "--topics and --output must be used together",
    "search nothing dogs": "no index at nothing",
    "search INDEX --topics nothing.tsv --output x.run": "there is no file, ir_datasets id or PyTerrier dataset 'nothing.tsv'",
    "search INDEX --topics TOPICS --output x.run --tag a\tb": "--tag must be one word, found 'a\\tb'",
    "search INDEX --topics half.jsonl --output x.run": "half.jsonl: the query '2' has no vector, but other queries have one",
    "search INDEX --topics TOPICS --split dev --output x.run": "topics.tsv is a file, which has no split 'dev': leave out",
    "search INDEX --topics TOPICS --output folder": "output folder is a directory: name a file",
    "search INDEX --topics TOPICS --output TOPICS": "topics.tsv exists and is not a run: name another file, or remove it",
    "search INDEX --topics TOPICS --output half.jsonl": "half.jsonl exists and is not a run: name another file, or remove it",
    "search INDEX \udcff": "QUERY: the text is not valid Unicode",
    "search INDEX dogs --model csplade-tiny": "was encoded by",
    "index INDEX.vectors --output x --meta text": "contains vectors, but no field 'text': leave --meta out",
    "index half.jsonl --output x": "half.jsonl, document 2: the field 'vector' must be an object of term to weight",
    "index DOCS --output x --meta url": "the field 'url' is missing or not a string; its texts are: text, title",
    "index nothing --output x": "there is no file, ir_datasets id or PyTerrier dataset 'nothing'",
    "index DOCS --output DOCS": "exists and is not an index",
    "index DOCS --output x --meta title,text": "Terrier cannot store a metadata field 'title,text'",
    "index half.jsonl --output x --meta ": "Terrier cannot store a metadata field '': its name is empty",
    "search INDEX --topics  --output x.run": "the name of the queries is empty",
    "search INDEX --topics TOPICS --output no/x.run": "there is no directory no for the output x.run",
    "search INDEX --topics TOPICS --output x.run.zst": "a run can be compressed as .gz or .bz2, not as .zst",
    "search INDEX --topics TOPICS --output x.tar.gz": "a run can be compressed as .gz or .bz2, not as .tar",
    "search INDEX dogs --model ": "the name of the model or adapter is empty",
    "search INDEX dogs --model half.jsonl": "half.jsonl is a file: name the directory of the model or adapter",
    "search INDEX dogs --model runs/a/b": "there is no directory runs/a/b",
    "search INDEX dogs --adapter half.jsonl": "half.jsonl is a file: name the directory of the model or adapter",
}


@pytest.mark.parametrize("command", REFUSED)
def test_refusals(
    command: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "1", "vector": {"a": 1}, "query": "a"}, {"id": "2", "query": "b"}]
    Path("folder").mkdir()
    Path("half.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = command
    for word, name in (("INDEX", "index"), ("TOPICS", "topics.tsv"), ("DOCS", "docs.jsonl")):
        line = line.replace(word, str(place / name))
    model = [] if "--model" in command else ["--model", str(place / "model")]
    assert main([*line.split(" "), *model]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("pyterrier-csplade: ") and REFUSED[command] in last
    assert not Path("x").exists() and not Path("x.run").exists() and not Path("x.vectors").exists()


def test_a_docno_that_a_run_cannot_represent_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(tmp_path / "docs.jsonl", [{"docno": "", "toks": {"a": 1}}, {"docno": "b", "toks": {"a": 2}}])
    jsonl(tmp_path / "topics.jsonl", [{"qid": "1", "query_toks": {"a": 1.0}}])
    assert main(f"index {tmp_path}/docs.jsonl --output {tmp_path}/index".split()) == 0
    assert main(f"search {tmp_path}/index --topics {tmp_path}/topics.jsonl --output {tmp_path}/x.run".split()) == 2
    assert "docno '' is empty or has white space, which a TREC run cannot represent" in capsys.readouterr().err
    assert not (tmp_path / "x.run").exists()


@pytest.mark.parametrize("command", ["encode a --output ", "verify ", "plot ", "train ", "mine a --index  --output x"])
def test_an_empty_path_is_not_the_current_directory(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(command.split(" "))
    assert "must be a path, found ''" in capsys.readouterr().err
