"""The package as a part of PyTerrier: experiments, operators, artifacts, lazy imports; on a tiny random model."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR, nDCG

from pyterrier_csplade import CSPLADE, DataError, ImpactIndex
from support.paths import ROOT, extract
from support.texts import DOCUMENTS, dense


def corpus() -> Iterator[dict[str, str]]:
    return ({"docno": docno, "text": text} for docno, text in DOCUMENTS.items())


@pytest.fixture(scope="module")
def index(csplade: CSPLADE, tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    built = ImpactIndex(tmp_path_factory.mktemp("impacts") / "index")
    (csplade.doc_encoder() >> built).index(corpus())
    return built


@pytest.fixture(scope="module")
def terms(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An ordinary index of the texts."""
    built = pt.terrier.TerrierIndex(tmp_path_factory.mktemp("terms") / "index")
    built.indexer(text_attrs=["text"], meta={"docno": 20, "text": 4096}).index(corpus())
    return built


@pytest.fixture(scope="module")
def bm25(terms: Any) -> pt.Transformer:
    return terms.bm25(num_results=5)


def run_python(code: str, *arguments: str) -> str:
    """Run code in a new process and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def brute_force(csplade: CSPLADE, query: str, k: int) -> list[tuple[str, float]]:
    """The first k documents by the dot product of query weights and rounded impacts, in float64."""
    impacts = np.floor(dense(csplade.encode_docs(list(DOCUMENTS.values()))) * 100 + 0.5)
    scores = impacts @ dense(csplade.encode_queries([query]))[0]
    order = np.argsort(-scores, kind="stable")[:k]
    return [(list(DOCUMENTS)[at], scores[at]) for at in order if scores[at] > 0]


# ------------------------------------------------------------------------------------------------ retrieval, experiments


def test_retrieval_is_the_exact_dot_product(csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame) -> None:
    found = (csplade.query_encoder() >> index.retriever(num_results=5))(topics)
    for qid, query in zip(topics["qid"], topics["query"]):
        rows = found[found["qid"] == qid]
        expected = brute_force(csplade, query, 5)
        assert list(rows["docno"]) == [docno for docno, _ in expected]
        assert list(rows["score"]) == pytest.approx([score for _, score in expected], rel=1e-5)


def test_the_plain_route_through_terrier_ranks_the_same(
    csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame, tmp_path: Path
) -> None:
    plain = csplade.doc_encoder() >> pt.IterDictIndexer(str(tmp_path / "plain"), pretokenised=True)
    retriever = csplade.query_encoder() >> pt.terrier.Retriever(plain.index(corpus()), wmodel="Tf")
    found, expected = retriever(topics), (csplade.query_encoder() >> index.retriever())(topics)
    assert list(found["docno"]) == list(expected["docno"])
    largest = found["query_toks"].map(lambda toks: max(toks.values()))  # by which Terrier divides
    np.testing.assert_allclose(found["score"] * largest, expected["score"], rtol=1e-4)


def test_the_scorer_agrees_with_the_index(
    csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame, documents: pd.DataFrame
) -> None:
    pipeline = csplade.query_encoder() >> index.retriever()
    found = pipeline(topics).merge(documents, on="docno").rename(columns={"score": "indexed"})
    scored = csplade.scorer()(found)
    np.testing.assert_allclose(scored["score"] * 100, scored["indexed"], rtol=0.01)


def test_an_experiment_gives_no_warning(
    csplade: CSPLADE, index: ImpactIndex, terms: Any, bm25: pt.Transformer, topics: pd.DataFrame, qrels: pd.DataFrame
) -> None:
    retrieval = csplade.query_encoder() >> index.retriever(num_results=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # PyTerrier's own add_ranks under pandas 3.1.
        warnings.filterwarnings("ignore", message="The inplace keyword in DataFrame.drop")
        table = pt.Experiment(
            {
                "BM25": bm25,
                "CSPLADE": retrieval,
                "re-ranking": bm25 >> pt.text.get_text(terms, ["text"]) >> csplade.scorer(),
                "fusion": 0.01 * retrieval + bm25,
            },
            topics,
            qrels,
            [nDCG @ 10, RR @ 10, "mrt"],
            baseline="BM25",
            validate="error",
        )
    assert list(table["name"]) == ["BM25", "CSPLADE", "re-ranking", "fusion"]
    assert table[["nDCG@10", "RR@10"]].notna().all(axis=None) and (table["nDCG@10"] <= 1).all()
    assert table["nDCG@10"][0] > 0.9  # BM25 finds these by their words


def test_an_experiment_encodes_a_shared_prefix_once(
    csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame, qrels: pd.DataFrame, encoded: list[tuple[str, list[str]]]
) -> None:
    systems = [csplade.query_encoder() >> index.retriever(num_results=k) for k in (3, 5)]
    pt.Experiment(systems, topics, qrels, ["map"], names=["3", "5"], plan="tree")
    assert encoded == [("query", list(topics["query"]))]


def test_a_cutoff_moves_into_the_search(csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame) -> None:
    pipeline = csplade.query_encoder() >> index.retriever(num_results=6)
    compiled = (pipeline % 3).compile()
    assert compiled == csplade.query_encoder() >> index.retriever(num_results=3)
    columns = ["qid", "docno", "score", "rank"]
    pd.testing.assert_frame_equal(
        (pipeline % 3)(topics)[columns].reset_index(drop=True), compiled(topics)[columns].reset_index(drop=True)
    )
    assert (pipeline % 50).compile() == pipeline


def test_operators(csplade: CSPLADE, index: ImpactIndex, bm25: pt.Transformer, topics: pd.DataFrame) -> None:
    retrieval = csplade.query_encoder() >> index.retriever(num_results=4)
    separate = {frozenset(zip(system(topics)["qid"], system(topics)["docno"])) for system in (retrieval, bm25)}
    one, other = separate
    assert set(zip(*(retrieval | bm25)(topics)[["qid", "docno"]].to_numpy().T)) == one | other
    assert set(zip(*(retrieval & bm25)(topics)[["qid", "docno"]].to_numpy().T)) == one & other
    doubled, single = (retrieval * 2)(topics), retrieval(topics)
    np.testing.assert_allclose(doubled["score"], 2 * single["score"])
    parts = [dict(zip(zip(found["qid"], found["docno"]), found["score"])) for found in (single, bm25(topics))]
    fused = (retrieval + bm25)(topics)
    sums = dict(zip(zip(fused["qid"], fused["docno"]), fused["score"]))
    assert sums == pytest.approx({key: sum(part.get(key, 0.0) for part in parts) for key in parts[0].keys() | parts[1].keys()})
    appended = ((retrieval % 1) ^ bm25)(topics)
    for qid, rows in appended.groupby("qid"):
        first = single[single["qid"] == qid]["docno"].tolist()[:1]
        rest = [docno for other, docno in parts[1] if other == qid and docno not in first]
        assert rows.sort_values("rank")["docno"].tolist() == first + rest


def test_scores_are_features(csplade: CSPLADE, index: ImpactIndex, terms: Any, topics: pd.DataFrame) -> None:
    candidates = csplade.query_encoder() >> index.retriever(num_results=4) >> pt.text.get_text(terms, ["text"])
    length = pt.apply.doc_score(lambda row: len(row["text"]))
    found = (candidates >> (csplade.scorer() ** length))(topics)
    assert len(found) > 4
    for row in found.to_dict("records"):
        text = DOCUMENTS[row["docno"]]
        score = dense(csplade.encode_queries([row["query"]]))[0] @ dense(csplade.encode_docs([text]))[0]
        assert row["features"] == pytest.approx([score, len(text)], rel=1e-5)


def test_search_answers_one_query_and_none_for_an_empty_one(csplade: CSPLADE, index: ImpactIndex) -> None:
    pipeline = csplade.query_encoder() >> index.retriever()
    found = pipeline.search("inverted index")
    assert list(found["docno"])[:3] == [docno for docno, _ in brute_force(csplade, "inverted index", 3)]
    assert len(pipeline.search(" ")) == 0


def test_duplicate_qids_are_refused_where_they_would_mix_results(csplade: CSPLADE, index: ImpactIndex) -> None:
    with pytest.raises(DataError, match="qid '1' appears twice"):
        (csplade.query_encoder() >> index.retriever())(pd.DataFrame({"qid": ["1", "1"], "query": ["a", "b"]}))


def test_passages_are_ranked_as_documents(csplade: CSPLADE, tmp_path: Path) -> None:
    long = {"docno": "long", "text": " ".join(DOCUMENTS.values())}
    index = ImpactIndex(tmp_path / "passages")
    windows = pt.text.sliding(text_attr="text", length=12, stride=6, prepend_attr=None)
    (windows >> csplade.doc_encoder() >> index).index([long, *corpus()])
    assert len(index) > len(DOCUMENTS) + 5
    found = (csplade.query_encoder() >> index.retriever() >> pt.text.max_passage()).search("inverted index")
    assert sorted(found["docno"]) == sorted([*DOCUMENTS, "long"])


# ---------------------------------------------------------------------------------------------------- artifacts, imports


def test_the_index_opens_without_this_package(csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame) -> None:
    query_toks = csplade.query_encoder()(topics)["query_toks"][0]
    code = """
import sys, json
import pandas as pd, pyterrier as pt
installed = pt.utils.entry_points
pt.utils.entry_points = lambda group: [ep for ep in installed(group) if not ep.value.startswith("pyterrier_csplade")]
sys.modules["pyterrier_csplade"] = None
artifact = pt.Artifact.load(sys.argv[1])
assert type(artifact) is pt.terrier.TerrierIndex, type(artifact)
queries = pd.DataFrame({"qid": ["q1"], "query_toks": [json.loads(sys.argv[2])]})
print(" ".join(artifact.tf()(queries)["docno"]))
"""
    found = run_python(code, str(index.path), json.dumps(query_toks)).splitlines()[-1].split()
    assert found == [docno for docno, _ in brute_force(csplade, topics["query"][0], 100)]


def test_a_package_of_the_index_gives_the_same_rankings(
    csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame, tmp_path: Path
) -> None:
    package = index.build_package(str(tmp_path / "package.tar.lz4"), verbose=False)
    with lz4.frame.open(package) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        extract(archive, tmp_path / "unpacked")
    again = ImpactIndex.load(str(tmp_path / "unpacked"))
    again.verify()
    assert again.contract == index.contract == csplade.contract
    before, after = ((csplade.query_encoder() >> opened.retriever())(topics) for opened in (index, again))
    pd.testing.assert_frame_equal(before, after)


def test_the_paper_is_cited_where_people_look() -> None:
    root = ROOT
    pages = root / "pyterrier_csplade" / "pt_docs"
    for text in (
        (root / "README.md").read_text(encoding="utf-8"),
        (root / "pyterrier_csplade" / "tiny" / "MODEL_CARD.md").read_text(encoding="utf-8"),
        "".join((pages / page).read_text(encoding="utf-8") for page in ("index.rst", "overview.rst")),
        CSPLADE.__doc__ or "",
    ):
        assert "2504.10816" in text


LOADED = "sorted({'torch', 'transformers', 'peft', 'bitsandbytes', 'jnius', 'sentence_transformers'} & set(sys.modules))"


def test_the_import_loads_nothing_heavy_and_no_java() -> None:
    code = f"import sys, pyterrier_csplade; print(dir(pyterrier_csplade).index('CSPLADE') >= 0, {LOADED})"
    assert run_python(code) == "True []"


def test_models_do_not_start_java_and_are_called_the_same_in_each_process() -> None:
    code = f"""
import sys
import pyterrier as pt
from pyterrier_csplade import CSPLADE, ImpactIndex
csplade = CSPLADE("some/model")
pipeline = csplade.query_encoder() >> ImpactIndex("some.index").retriever()
pt.inspect.transformer_outputs(pipeline, ["qid", "query"])
csplade.doc_encoder(), csplade.scorer(), hash(pipeline), pipeline.compile()
print(pt.java.started(), [name for name in {LOADED} if name not in ("torch", "transformers")], pipeline)
"""
    pipeline = CSPLADE("some/model").query_encoder() >> ImpactIndex("some.index").retriever()
    assert run_python(code) == f"False [] {pipeline}"


def test_searching_an_index_loads_no_torch(csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame, tmp_path: Path) -> None:
    queries = csplade.query_encoder()(topics)
    (tmp_path / "queries.pickle").write_bytes(pickle.dumps(queries))
    code = f"""
import pickle, sys
from pyterrier_csplade import ImpactIndex
queries = pickle.load(open(sys.argv[2], "rb"))
found = ImpactIndex(sys.argv[1]).retriever(num_results=2)(queries)
print(len(found), [name for name in {LOADED} if name != "jnius"])
"""
    assert run_python(code, str(index.path), str(tmp_path / "queries.pickle")).splitlines()[-1] == f"{2 * len(topics)} []"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive"])
def test_a_search_shows_its_progress_while_it_runs(
    csplade: CSPLADE, index: ImpactIndex, topics: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, algorithm: str, threads: int
) -> None:
    bars: list[dict[str, Any]] = []

    def bar(hits: Any, **settings: Any) -> Any:
        bars.append(settings)
        yield from hits

    queries = csplade.query_encoder()(topics)
    expected = index.retriever(algorithm=algorithm)(queries)
    monkeypatch.setattr(pt, "tqdm", bar)
    found = index.retriever(algorithm=algorithm, threads=threads, verbose=True)(queries)
    assert [(settings["unit"], settings["total"]) for settings in bars] == [("q", len(topics))]
    pd.testing.assert_frame_equal(found, expected)


def test_silent_by_default(csplade: CSPLADE, topics: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ImpactIndex(tmp_path / "index")
    (csplade.doc_encoder() >> index).index(corpus())
    (csplade.query_encoder() >> index.retriever())(topics)
    assert capsys.readouterr() == ("", "")
