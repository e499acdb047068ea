"""Retrieval and scoring against a cluster in memory, compared with scipy, and PyTerrier's tests of transformers."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy.sparse import csr_matrix

from inside.engines import Backoff, remote
from pyterrier_csplade import Contract, ContractError, DataError, ImpactIndexError, ImpactVector, MatrixVectors, OpenSearchIndex
from support.fake_opensearch import Answer, FakeCluster, Fault

CONTRACT = Contract(weights="w", base_model="lm-one")
TERMS = ["Ġthe", "a.b", "%", "%2E", ".", "", "*", "检索", *(f"Ġ{i}" for i in range(40))]
DOCUMENTS = 300
GENERATOR = np.random.default_rng(5)
MATRIX = csr_matrix((GENERATOR.random((DOCUMENTS, len(TERMS))) < 0.2) * GENERATOR.integers(1, 513, (DOCUMENTS, len(TERMS))))
DOCNOS = [f"d{i}" for i in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture(scope="module")
def index(cluster: FakeCluster) -> OpenSearchIndex:
    vectors = MatrixVectors(DOCNOS, MATRIX, TERMS, CONTRACT)
    documents = ({"docno": docno, "url": f"u{docno}", "text": "words"} for docno in DOCNOS)
    return OpenSearchIndex(cluster.client(), "docs").index_vectors(vectors, documents, meta=["url"], text="text")


def frame(*queries: Any) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(queries))], "query_toks": pd.Series(list(queries), dtype=object)})


def brute_force(query: dict[str, float], k: int) -> list[tuple[str, float]]:
    scores = MATRIX @ np.array([query.get(term, 0.0) for term in TERMS])
    return sorted(((d, s) for d, s in zip(DOCNOS, scores) if s > 0), key=lambda hit: (-hit[1], hit[0]))[:k]


def random_query(seed: int, size: int, scale: float) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    columns = generator.choice(len(TERMS), size, replace=False)
    return {TERMS[c]: float(np.float32(scale * w)) for c, w in zip(columns, generator.exponential(size=size))}


@pytest.mark.parametrize("scale", [1e-40, 1e-7, 0.01, 1, 250, 1e30, 1e150])
def test_scores_and_order_match_scipy(index: OpenSearchIndex, scale: float) -> None:
    queries = [{t: w * scale for t, w in random_query(seed, size, 1).items()} for seed, size in enumerate((1, 2, 5, 20, 48))]
    result = index.retriever(num_results=50, batch_size=2)(frame(*queries))
    assert result["qid"].drop_duplicates().tolist() == [f"q{i}" for i in range(5)]
    for i, query in enumerate(queries):
        rows, expected = result[result["qid"] == f"q{i}"], brute_force(query, 50)
        assert rows["docno"].tolist() == [docno for docno, _ in expected]
        assert rows["score"].to_numpy() == pytest.approx([score for _, score in expected], rel=1e-6)
        assert rows["rank"].tolist() == list(range(50))


def test_weights_far_apart_keep_their_order_and_those_too_far_are_refused(index: OpenSearchIndex) -> None:
    query = {"Ġ1": 1e30, "Ġ2": 1e-7}
    result = index.retriever()(frame(query))
    impact = {docno: (MATRIX[i, TERMS.index("Ġ1")], MATRIX[i, TERMS.index("Ġ2")]) for i, docno in enumerate(DOCNOS)}
    without = [docno for docno in result["docno"] if impact[docno][0] == 0]
    assert result["docno"].tolist()[-len(without) :] == without == sorted(without, key=lambda d: (-impact[d][1], d))
    assert np.isfinite(result["score"]).all() and len(result) == sum(any(pair) for pair in impact.values())
    with pytest.raises(DataError, match="query 'q0'.*differ by a factor"):
        index.retriever()(frame({"Ġ1": 1e100, "Ġ2": 1.0}))


@pytest.mark.filterwarnings("error")
def test_queries_without_a_known_term_have_no_rows_and_harm_no_other(index: OpenSearchIndex) -> None:
    unknown = {"\ud800": 1.0, "x" * 40_000: 1.0}
    nothing: list[Any] = [{}, None, math.nan, pd.NA, {"%": 0.0}, {"%": None}, {"never": 1.0}, unknown]
    result = index.retriever()(frame(*nothing, {"a.b": 1.0, "never": 1e30}))
    assert set(result["qid"]) == {"q8"}
    assert list(zip(result["docno"], result["score"])) == brute_force({"a.b": 1.0}, 1000)
    empty = index.retriever()(frame(*nothing))
    assert len(empty) == 0 and list(empty.columns) == list(result.columns)
    assert [str(empty[c].dtype) for c in ("rank", "score")] == ["int64", "float64"]


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, "1", [1.0], 10**400])
def test_invalid_weight_is_refused_with_its_query(index: OpenSearchIndex, weight: Any) -> None:
    with pytest.raises(DataError, match="query 'q1'.*'a.b'"):
        index.retriever()(frame({"%": 1.0}, {"a.b": weight}))


def test_frame_is_not_changed_and_its_columns_are_kept(index: OpenSearchIndex) -> None:
    queries = frame({"%": 1.0}, {"*": 1.0}).assign(query="raw", topic=[4, 5], score=-1.0)[::-1]
    before = queries.copy()
    result = index.retriever(num_results=2, include_fields=["url"])(queries)
    pd.testing.assert_frame_equal(queries, before)
    assert list(result.columns) == ["qid", "query_toks", "query", "topic", "docno", "url", "rank", "score"]
    assert result["qid"].tolist() == ["q1", "q1", "q0", "q0"] and result["topic"].tolist() == [5, 5, 4, 4]
    assert result["url"].tolist() == [f"u{docno}" for docno in result["docno"]]


def test_duplicate_qids_and_unknown_fields_are_refused(index: OpenSearchIndex) -> None:
    with pytest.raises(DataError, match="qid '7' appears twice"):
        index.retriever()(frame({"%": 1.0}, {"*": 1.0}).assign(qid=[7, "7"]))
    with pytest.raises(ImpactIndexError, match="no field 'nowhere', only url, text"):
        index.retriever(include_fields=["nowhere"])(frame({"%": 1.0}))


def test_query_of_another_encoder_is_refused_and_both_are_named(index: OpenSearchIndex) -> None:
    same = ImpactVector({"%": 1.0}, CONTRACT.replace(query_length=8))
    assert len(index.retriever(num_results=1)(frame(same))) == 1
    other = ImpactVector({"%": 1.0}, CONTRACT.replace(weights="v", base_model="lm-two"))
    results = frame(same, other).assign(docno="d1")
    for transformer in (index.retriever(), index.scorer()):
        with pytest.raises(ContractError, match="query 'q1'.*lm-two.*lm-one"):
            transformer(results.drop(columns=[] if transformer == index.scorer() else ["docno"]))


def test_more_terms_than_the_cluster_allows(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    long = {f"x{i}": 1.0 for i in range(2000)} | {"%": 2.0}
    with pytest.raises(ImpactIndexError, match=r"query 'q1' has more terms.*allow_query_terms"):
        index.retriever()(frame({"%": 1.0}, long))
    index.allow_query_terms(2001)
    result = index.retriever()(frame(long))
    assert list(zip(result["docno"], result["score"])) == brute_force({"%": 2.0}, 1000)


def test_scorer_scores_the_given_rows_in_their_order(index: OpenSearchIndex) -> None:
    queries = {"q0": random_query(1, 6, 1.0), "q1": random_query(2, 6, 1.0), "q2": {}}
    rows = [(qid, docno) for docno in ("d7", "d3", "d299", "d5") for qid in queries]
    results = pd.DataFrame(
        {"qid": [q for q, _ in rows], "docno": [d for _, d in rows], "query_toks": [queries[q] for q, _ in rows]}
    )
    results.index = pd.Index(range(100, 100 + len(rows)))
    scored = index.scorer(batch_size=1)(results.assign(score=9.0, rank=0))
    exact = [float((MATRIX[int(d[1:])] @ [queries[q].get(t, 0.0) for t in TERMS])[0]) for q, d in rows]
    assert scored["docno"].tolist() == results["docno"].tolist()
    assert scored["score"].to_numpy() == pytest.approx(exact, rel=1e-6)
    for _, group in scored.groupby("qid"):
        assert group.sort_values("rank")["score"].is_monotonic_decreasing
    with pytest.raises(DataError, match="query 'q0'.*no document 'd300'"):
        index.scorer()(results.head(1).assign(docno="d300"))
    assert len(index.scorer()(results.head(0))) == 0


def test_cutoff_equality_hash_repr_and_inspection(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    retriever: Any = index.retriever(num_results=20, filter={"term": {"url": "x"}})
    assert (retriever % 5).compile() == index.retriever(num_results=5, filter={"term": {"url": "x"}})
    assert (retriever % 50).compile() == retriever
    again = OpenSearchIndex(cluster.client(), "docs")
    assert again == index and hash(again) == hash(index)
    assert again.retriever() == index.retriever(verbose=True) and hash(again.retriever()) == hash(index.retriever())
    assert index.retriever() not in (retriever, index.bm25(), index.scorer(), index.retriever(batch_size=7), "x")
    assert repr(retriever) == "OpenSearchIndex('cluster:9200', 'docs').retriever(num_results=20, filter={'term': {'url': 'x'}})"
    assert repr(index.bm25()) == "OpenSearchIndex('cluster:9200', 'docs').bm25()"
    assert pt.inspect.transformer_inputs(index.retriever()) == [["qid", "query_toks"]]
    assert pt.inspect.transformer_inputs(index.bm25()) == [["qid", "query"]]
    outputs = pt.inspect.transformer_outputs(index.retriever(include_fields=["url"]), ["qid", "query_toks"])
    assert outputs == ["qid", "query_toks", "docno", "url", "rank", "score"]


@pytest.mark.parametrize("arguments", [{"num_results": 0}, {"num_results": 10_001}, {"batch_size": 0}, {"filter": "year > 3"}])
def test_arguments_that_cannot_work_are_refused(index: OpenSearchIndex, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        index.retriever(**arguments)


def answering(answer: dict[str, Any], bodies: list[str] | None = None) -> list[Fault]:
    """The version or mapping as it is, then an answer to a search."""

    def search(method: str, path: str, body: Any) -> Answer:
        if bodies is not None:
            bodies.append(body)
        return 200, answer

    return [lambda *request: None, search]


def test_filter_is_added_to_the_query_and_does_not_score(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    bodies: list[str] = []
    cluster.faults += answering({"responses": [{}]}, bodies)
    assert len(index.retriever(filter={"range": {"year": {"gte": 3}}})(frame({"%": 1.0}))) == 0
    assert '"filter": [{"range": {"year": {"gte": 3}}}]' in bodies[0] and '"must": [{"bool": {"should"' in bodies[0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"responses": []}, "only some of the queries"),
        ({"responses": [{"timed_out": True, "hits": {"hits": []}}]}, "only some of the queries"),
        (
            {"responses": [{"status": 500, "error": {"type": "shard_exception", "reason": "lost"}}]},
            "query 'q0': shard_exception: lost",
        ),
    ],
)
def test_answers_that_are_cut_are_refused(
    cluster: FakeCluster, index: OpenSearchIndex, answer: dict[str, Any], message: str
) -> None:
    cluster.faults += answering(answer)
    with pytest.raises(ImpactIndexError, match=message):
        index.retriever()(frame({"%": 1.0}))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"responses": None},
        {"responses": {"hits": 3}},
        {"responses": ["x"]},
        {"responses": [{"hits": {"hits": [{"_id": "d"}]}}]},
        {"responses": [{"hits": {"hits": [{"sort": [None, "d"]}]}}]},
        {"responses": [{"hits": {"hits": [{"sort": ["d", 1.0]}]}}]},
        {"responses": [{"hits": {"hits": ["d"]}}]},
    ],
)
def test_answers_of_another_form_are_refused(cluster: FakeCluster, index: OpenSearchIndex, answer: dict[str, Any]) -> None:
    cluster.faults += answering(answer)
    with pytest.raises(ImpactIndexError, match="cluster:9200 does not answer as OpenSearch"):
        index.retriever()(frame({"%": 1.0}))


@pytest.mark.parametrize(
    ("kind", "reason", "too_many"),
    [
        ("too_many_clauses", "maxClauseCount is set to 1024", True),
        ("too_many_nested_clauses", "Query contains too many nested clauses; maxClauseCount is set to 1024", True),
        ("query_shard_exception", "failed to create query: maxClauseCount is set to 1024", True),
        ("parsing_exception", "[bool] query does not support [clauses]", False),
        ("number_format_exception", 'For input string: "clause"', False),
        ("query_shard_exception", "failed to find type for field [clause]", False),
    ],
)
def test_only_too_many_terms_are_reported_as_such(
    cluster: FakeCluster, index: OpenSearchIndex, kind: str, reason: str, too_many: bool
) -> None:
    cluster.faults += answering({"responses": [{"status": 400, "error": {"type": kind, "reason": reason}}]})
    with pytest.raises(ImpactIndexError, match=r"\.allow_query_terms\(\)" if too_many else "refused query 'q0': ") as caught:
        index.retriever()(frame({"%": 1.0}))
    assert reason in str(caught.value)


def test_search_that_the_server_was_too_busy_for_is_sent_again(
    cluster: FakeCluster, index: OpenSearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_BACKOFF", Backoff(0.001, 0.001, 5.0))
    error = {"type": "rejected_execution_exception", "reason": "queue is full"}
    cluster.faults += answering({"responses": [{"status": 429, "error": error}]})
    found = index.retriever()(frame({"%": 1.0}))
    assert list(zip(found["docno"], found["score"])) == brute_force({"%": 1.0}, 1000)
    monkeypatch.setattr(remote, "_BACKOFF", Backoff(patience=0.0))
    cluster.faults += answering({"responses": [{"status": 429, "error": error}]})
    with pytest.raises(ImpactIndexError, match="query 'q0': rejected_execution_exception: queue is full"):
        index.retriever()(frame({"%": 1.0}))


@pytest.mark.parametrize("query", [None, 3, math.nan, "\ud800"])
def test_other_objects_than_text_are_refused(index: OpenSearchIndex, query: Any) -> None:
    with pytest.raises(DataError, match="query 'q0'"):
        index.bm25()(pd.DataFrame({"qid": ["q0"], "query": pd.Series([query], dtype=object)}))


def test_bm25_needs_a_text(cluster: FakeCluster) -> None:
    plain = OpenSearchIndex(cluster.client(), "plain").index([{"docno": "d", "toks": {"a": 1}}])
    with pytest.raises(ImpactIndexError, match="no text to search: toks_indexer"):
        plain.bm25().search("words")


class TestRetriever(pt.testing.transformer_test_class(lambda: OpenSearchIndex("http://localhost:1", "x").retriever())):  # type: ignore[misc]
    """PyTerrier's own tests of inspection and schematics, without a server."""


class TestBM25(pt.testing.transformer_test_class(lambda: OpenSearchIndex("http://localhost:1", "x").bm25())):  # type: ignore[misc]
    """The same."""


class TestScorer(pt.testing.transformer_test_class(lambda: OpenSearchIndex("http://localhost:1", "x").scorer())):  # type: ignore[misc]
    """The same."""


def test_no_client_no_java_and_no_torch_before_the_first_request() -> None:
    code = """
import sys, pandas as pd, pyterrier as pt
from pyterrier_csplade import OpenSearchIndex
index = OpenSearchIndex("https://nowhere:9200", "docs")
index.retriever().transform(pd.DataFrame(columns=["qid", "query_toks"]))
pt.inspect.transformer_outputs(index.retriever() % 5, ["qid", "query_toks"])
repr(index.retriever()), hash(index.scorer()), index.toks_indexer().index_inputs(), bool(index)
print(sorted({"jnius", "torch", "transformers", "opensearchpy"} & set(sys.modules)), pt.java.started())
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split("\n")[0] == "[] False"
