"""Answers of a cluster that end a load or a search, and arguments that do not fit the index that is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from inside.engines import Backoff, BulkLoader
from pyterrier_csplade import DataError, ImpactIndexError, MatrixVectors, OpenSearchIndex, Vocabulary
from support.fake_opensearch import FakeCluster, items, status
from support.opensearch_documents import BEFORE_BULK, CONTRACT, documents, expected, impacts, shorten_pauses, small_requests

QUERY = [{"qid": "1", "query_toks": {"a": 1.0}}]
PASS: Any = lambda *request: None  # noqa: E731


def on_bulk(cluster: FakeCluster, change: Any) -> Any:
    """Change the items of a bulk request's answer, and let other requests pass."""
    fault = items(cluster, change)
    return lambda method, path, body: fault(method, path, body) if "/_bulk" in path else None


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def index(cluster: FakeCluster) -> OpenSearchIndex:
    return OpenSearchIndex(cluster.client(), "docs")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


# ------------------------------------------------------------------------------------------------------ loads


def test_items_that_stay_refused_end_the_load_with_their_document_and_reason(
    cluster: FakeCluster, index: OpenSearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.001, 0.002, 0.03))

    def full(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        error = {"type": "busy", "reason": "queue full"}
        for item in found if len(found) == 1 else found[3:4]:
            cluster.documents("docs").pop(item["index"]["_id"], None)
            item["index"] |= {"status": 429, "error": error}
        return found

    cluster.faults += [*BEFORE_BULK, *[on_bulk(cluster, full)] * 10_000]
    with pytest.raises(
        ImpactIndexError, match="did not accept 1 documents, starting with 'd3': 429 busy: queue full; run the same"
    ):
        index.index(documents(10))
    assert not index.built()
    cluster.faults.clear()
    index.index(documents(10))
    assert impacts(cluster) == expected(10)


@pytest.mark.parametrize("found", [None, "x", [3], {"index": {}}])
def test_answer_to_a_load_of_another_form_is_refused(cluster: FakeCluster, index: OpenSearchIndex, found: Any) -> None:
    cluster.faults += [*BEFORE_BULK, lambda *request: (200, {"errors": False, "items": found})]
    with pytest.raises(ImpactIndexError, match="cluster:9200 does not answer as OpenSearch"):
        index.index(documents(4))
    assert not index.built()


@pytest.mark.parametrize("more", [True, False])
def test_answer_about_other_documents_is_no_acknowledgement(cluster: FakeCluster, index: OpenSearchIndex, more: bool) -> None:
    def change(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*found, {"index": {"_id": "d9", "status": 201}}] if more else found[::-1]

    cluster.faults += [*BEFORE_BULK, items(cluster, change)]
    with pytest.raises(ImpactIndexError, match="cluster:9200 answered about documents that are not in the request"):
        index.index(documents(4))
    assert not index.built()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": "no handler found for uri [/docs] and method [PUT]"}, "answered 400 no handler found for uri"),
        ({"message": "Bad request"}, "answered 400"),
        ("<html>nginx</html>", "answered 400"),
        ({"error": {"type": "x", "reason": "outer", "root_cause": [{"type": "y", "reason": "inner"}]}}, "400 y: inner"),
        ({"error": {"type": "x", "reason": "outer", "caused_by": {"type": "y"}}}, "400 x: outer"),
        ({"error": {"root_cause": []}}, "400 error$"),
    ],
)
def test_a_refused_creation_gives_its_reason(cluster: FakeCluster, index: OpenSearchIndex, answer: Any, message: str) -> None:
    cluster.faults += [*BEFORE_BULK[:3], lambda *request: (400, answer)]
    with pytest.raises(ImpactIndexError, match=message):
        index.index(documents(2))
    assert cluster.indexes == {}


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (403, "security", "security: does auth=.* name a user with this permission"),
        (403, "cluster_block", "cluster_block: is a disk of the cluster nearly full"),
        (405, "method_not_allowed", "method_not_allowed$"),
    ],
)
def test_an_index_that_may_not_be_deleted_is_kept(
    cluster: FakeCluster, index: OpenSearchIndex, code: int, kind: str, message: str
) -> None:
    index.index(documents(3))
    # One request asks for the existing index before it is deleted.
    cluster.faults += [PASS, status(code, kind)]
    with pytest.raises(ImpactIndexError, match=f"answered {code} {kind}_exception: {message}"):
        index.toks_indexer(overwrite=True).index(documents(5))
    assert impacts(cluster) == expected(3) and index.built()


def test_replacing_an_index_that_is_not_there_creates_it(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    index.toks_indexer(overwrite=True).index(documents(3))
    assert impacts(cluster) == expected(3)


def test_an_index_that_another_process_completed_meanwhile_is_kept(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    def stream() -> Iterator[dict[str, Any]]:
        OpenSearchIndex(cluster.client(), "docs").index(documents(2))
        yield from documents(9)

    with pytest.raises(
        ImpactIndexError, match=r"there is an index 'docs' at .*use toks_indexer\(overwrite=True\) to replace it"
    ):
        index.index(stream())
    assert impacts(cluster) == expected(2)


def test_a_load_resumes_without_knowing_the_encoder(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    """Plain dicts do not name it; the index then gets the contract of the other documents."""
    cluster.faults += [*BEFORE_BULK, PASS, status(400, "bad")]
    with pytest.raises(ImpactIndexError, match="400 bad"):
        small_requests(index).index(documents(contract=None))
    index.index(documents())
    assert impacts(cluster) == expected() and index.contract == CONTRACT


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf])
def test_a_matrix_with_an_infinite_weight_is_refused(cluster: FakeCluster, index: OpenSearchIndex, weight: float) -> None:
    matrix = csr_matrix(np.array([[1, 2], [3, weight]], np.float32))
    with pytest.raises(DataError, match="document 'e' has a weight that is not finite"):
        index.index_vectors(MatrixVectors(["d", "e"], matrix, ["a", "b"]))
    assert not index.built()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_a_cluster_refuses_or_forgets_every_document_arrives_once(data: st.DataObject) -> None:
    cluster, count = FakeCluster(), data.draw(st.integers(1, 12))

    def disturbed(kinds: list[int]) -> Any:
        def change(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
            kept = []
            for kind, item in zip(kinds + [0] * len(found), found):
                if kind:  # not taken: reported, or missing from the answer
                    cluster.documents("docs").pop(item["index"]["_id"])
                kept.append({"index": {**item["index"], "status": 429, "error": {"type": "busy"}}} if kind else item)
            cut = next((i for i, kind in enumerate(kinds[: len(found)]) if kind == 2), len(found))
            for item in found[cut:]:
                cluster.documents("docs").pop(item["index"]["_id"], None)
            return kept[:cut]

        return on_bulk(cluster, change)

    kinds = st.lists(st.integers(0, 2), max_size=4)
    faults = data.draw(st.lists(st.one_of(kinds.map(disturbed), st.sampled_from([status(429), status(503), PASS])), max_size=5))
    cluster.faults += [*BEFORE_BULK, *faults]
    indexer = OpenSearchIndex(cluster.client(), "docs").toks_indexer(
        request_bytes=data.draw(st.sampled_from([1, 120, 400, 10**6])), parallel=1
    )
    indexer.index(documents(count))
    assert impacts(cluster) == expected(count)


def test_an_empty_load_sends_nothing(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    BulkLoader(index.remote.connection, "docs", parallel=2, request_bytes=100).load([])
    assert cluster.requests == []


# ------------------------------------------------------------------------------------------------------ reading


def test_a_missing_index_is_named(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    row = {"qid": "1", "query": "a", "query_toks": {"a": 1.0}, "docno": "d"}
    for transformer in (index.retriever(), index.bm25(), index.scorer()):
        (columns,) = pt.inspect.transformer_inputs(transformer)
        with pytest.raises(ImpactIndexError, match=r"there is no index 'docs' at .*cluster:9200: build it with \(csplade"):
            transformer([{column: row[column] for column in columns}])
    assert index.contract is None
    assert not index.built() and bool(index)
    assert ("GET", "/docs/_count") not in cluster.requests  # bool() sends no request


def test_bm25_searches_the_text_with_statistics_from_all_shards(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    index.toks_indexer(text="body").index([{**document, "body": "dogs"} for document in documents(2)])
    asked: list[Any] = []

    def answer(method: str, path: str, body: str) -> Any:
        asked.extend([cluster.params["search_type"], *map(json.loads, body.splitlines()[1::2])])
        return 200, {"responses": [{"hits": {"hits": [{"sort": [1.5, f"d{i}"]}]}} for i in range(2)]}

    cluster.faults += [PASS, answer]  # the first request asks for the mapping
    frame = pd.DataFrame({"qid": ["x", "y"], "query": ["dogs AND (", "\U0001f642"]})
    found = index.bm25(num_results=5).transform(frame)
    assert found[["qid", "docno", "score"]].to_numpy().tolist() == [["x", "d0", 1.5], ["y", "d1", 1.5]]
    assert asked[0] == "dfs_query_then_fetch"
    assert [body["query"] for body in asked[1:]] == [{"match": {"body": {"query": query}}} for query in frame["query"]]
    assert [body["size"] for body in asked[1:]] == [5, 5]


def test_queries_without_rows_ask_for_nothing(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    for retriever, column in ((index.retriever(include_fields=["url"]), "query_toks"), (index.bm25(), "query")):
        frame = pd.DataFrame({"qid": pd.Series(dtype=str), column: pd.Series(dtype=object)})
        found = retriever.transform(frame)
        assert found.empty and found.columns.tolist() == pt.inspect.transformer_outputs(retriever, ["qid", column])
    scored = index.scorer().transform(pd.DataFrame({"qid": [], "query_toks": [], "docno": []}))
    assert scored.empty and {"score", "rank"} <= set(scored.columns)
    assert cluster.requests == []


def test_an_index_of_plain_terms_is_opened_without_a_vocabulary(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    index.index(documents(2))
    other = OpenSearchIndex(cluster.client(), "docs", vocabulary=Vocabulary(["a"], [5]))
    with pytest.raises(ImpactIndexError, match="names terms by strings of its own vocabulary: open it without vocabulary"):
        other.retriever()(QUERY)


def test_a_qid_names_one_query_in_a_scorer_too(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    index.index(documents(3))
    toks = [{"a": 1.0}, {"a": 1.0}, {"b2": 4}]
    rows = pd.DataFrame({"qid": ["q", "q", "p"], "docno": ["d1", "d2", "d2"], "query_toks": toks})
    assert index.scorer().transform(rows)["score"].tolist() == [2.0, 3.0, 8.0]
    rows.at[1, "query_toks"] = {"a": 1.5}
    with pytest.raises(DataError, match="query 'q' has several query_toks: a qid names one query"):
        index.scorer().transform(rows)


def test_what_pyterrier_asks_of_an_index_its_indexer_and_its_scorer(cluster: FakeCluster, index: OpenSearchIndex) -> None:
    indexer = index.toks_indexer(meta=["url"])
    assert index.index_inputs() == [["docno", "toks"]] and indexer.index_inputs() == [["docno", "toks", "url"]]
    assert indexer.subtransformers() == {} == index.scorer().subtransformers()
    same, other = index.scorer(batch_size=3), index.scorer()
    assert same == index.scorer(batch_size=3) != other and len({same, other, index.scorer(), index.scorer(batch_size=3)}) == 2
    assert repr(same) == f"{index!r}.scorer(batch_size=3)" and repr(other) == f"{index!r}.scorer()"
