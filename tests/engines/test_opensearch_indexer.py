"""Loading into a cluster in memory: requests, resumed loads, and the index that a failed load leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from inside.engines import bulk
from pyterrier_csplade import ContractError, DataError, ImpactIndexError, OpenSearchIndex, Vocabulary
from support.fake_opensearch import FakeCluster, items, status
from support.opensearch_documents import (
    BEFORE_BULK,
    CONTRACT,
    documents,
    expected,
    failing,
    impacts,
    shorten_pauses,
    small_requests,
)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


def test_documents_mapping_and_metadata(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    rows = [{**document, "year": 2000 + i, "url": "u", "body": "some text"} for i, document in enumerate(documents())]
    indexer = index.toks_indexer(meta={"year": "integer", "url": "keyword"}, text="body", shards=3, replicas=2)
    assert indexer.index_inputs() == [["docno", "toks", "year", "url", "body"]]
    assert indexer.index(iter(rows)) is index
    assert cluster.documents("docs")["d3"] == {
        "docno": "d3", "impacts": {"a": 4, "b3": 2}, "year": 2003, "url": "u", "body": "some text"
    }  # fmt: skip
    found = cluster.indexes["docs"]
    assert found["mappings"]["properties"] == {
        "docno": {"type": "keyword"},
        "impacts": {"type": "rank_features"},
        "year": {"type": "integer"},
        "url": {"type": "keyword"},
        "body": {"type": "text", "analyzer": "english"},
    }
    assert found["mappings"]["dynamic"] == "strict" and found["mappings"]["_source"] == {"excludes": ["impacts"]}
    assert found["settings"] == {"number_of_shards": 3, "number_of_replicas": 2, "refresh_interval": None}
    assert index.built() and len(index) == 25 and index.contract == CONTRACT
    assert index.statistics == {
        "documents": 25, "empty_documents": 0, "postings": 50, "dropped": 0, "quantization_loss": 0.0
    }  # fmt: skip


def test_settings_during_the_load(cluster: FakeCluster) -> None:
    seen = []

    def stream() -> Iterator[dict[str, Any]]:
        for document in documents():
            seen.append(dict(cluster.indexes.get("docs", {}).get("settings", {})))
            yield document

    small_requests(OpenSearchIndex(cluster.client(), "docs")).index(stream())
    assert seen[-1] == {"number_of_shards": 1, "refresh_interval": "-1", "number_of_replicas": 0}
    assert cluster.indexes["docs"]["settings"]["number_of_replicas"] == 1


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, DataError])
def test_settings_are_restored_when_a_load_fails(cluster: FakeCluster, error: type[BaseException]) -> None:
    def encoder() -> Iterator[dict[str, Any]]:
        yield from documents()
        raise error("enough")

    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(error):
        small_requests(index, replicas=2).index(encoder())
    assert cluster.indexes["docs"]["settings"] == {"number_of_shards": 1, "number_of_replicas": 2, "refresh_interval": None}
    assert not index.built()


def test_index_that_another_process_created_meanwhile_is_not_mixed_with(cluster: FakeCluster) -> None:
    def another(*request: Any) -> None:
        cluster.faults.clear()
        other = CONTRACT.replace(weights="v", base_model="lm-two")
        with pytest.raises(DataError, match="enough"):
            small_requests(OpenSearchIndex(cluster.client(), "docs")).index(failing(documents(contract=other)))

    cluster.faults += [*BEFORE_BULK[:3], another]
    with pytest.raises(ContractError, match="was begun with documents of lm-two.* but these come from lm-one"):
        OpenSearchIndex(cluster.client(), "docs").index(documents())


def test_document_that_the_server_refuses_is_named_and_the_index_stays_incomplete(cluster: FakeCluster) -> None:
    def refuse(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        cause = {"type": "number_format_exception", "reason": 'For input string: "abc"'}
        error = {"type": "mapper_parsing_exception", "reason": "failed to parse", "caused_by": cause}
        return [
            {**item, "index": {**item["index"], "status": 400, "error": error}} if i == 6 else item
            for i, item in enumerate(found)
        ]

    cluster.faults += BEFORE_BULK + [items(cluster, refuse)]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(DataError, match="document 'd6' was refused.*400 number_format_exception: For input string"):
        index.index(documents(10))
    assert not index.built()
    with pytest.raises(ImpactIndexError, match="load of 'docs'.*was interrupted: run the same indexing again"):
        index.retriever()([{"qid": "1", "query_toks": {"a": 1.0}}])
    index.index(documents(10))
    assert index.built() and impacts(cluster) == expected(10)


def test_memory_is_bounded_and_requests_run_in_parallel(cluster: FakeCluster) -> None:
    read, ahead = 0, []
    gate = time.sleep

    def stream() -> Iterator[dict[str, Any]]:
        nonlocal read
        for document in documents(200):
            read += 1
            ahead.append(read - len(cluster.indexes.get("docs", {}).get("documents", {})))
            yield document

    cluster.faults += [lambda *request: gate(0.01)] * 1000  # type: ignore[list-item]
    small_requests(OpenSearchIndex(cluster.client(), "docs"), parallel=3).index(stream())
    per_request = 6  # documents of about 50 bytes in requests of up to 300
    assert max(ahead) <= (3 + 2) * per_request
    assert 2 <= cluster.most_under_way <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract": CONTRACT.replace(weights="v", base_model="lm-two")}, "lm-one.*lm-two"),
        ({"contract": CONTRACT.replace(impact_scale=50.0)}, "impact scale 100.0, not 50.0"),
        ({"scale": 0.5}, "scale 1.0, not 0.5"),
        ({"meta": ["url"]}, "another field 'url'"),
        ({"vocabulary": Vocabulary(["a", *(f"b{i}" for i in range(25))], range(26))}, "names of terms"),
    ],
)
def test_load_is_resumed_only_with_the_same_settings(cluster: FakeCluster, change: dict[str, Any], message: str) -> None:
    cluster.faults += BEFORE_BULK + [lambda *request: None] + [status(400, "bad")]
    with pytest.raises(ImpactIndexError):
        small_requests(OpenSearchIndex(cluster.client(), "docs")).index(documents())
    before = impacts(cluster)
    contract, vocabulary = change.pop("contract", CONTRACT), change.pop("vocabulary", None)
    again = OpenSearchIndex(cluster.client(), "docs", vocabulary=vocabulary)
    rows = [{**document, "url": "u"} for document in documents(contract=contract)]
    with pytest.raises((ContractError, ImpactIndexError), match=message):
        again.toks_indexer(**change).index(rows)
    assert impacts(cluster) == before
    again.toks_indexer(**change, overwrite=True).index(rows)
    assert again.built()


def test_complete_index_is_replaced_only_on_request_and_before_anything_is_encoded(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    index.index(documents())

    def encoder() -> Iterator[dict[str, Any]]:
        raise AssertionError("a document was encoded")
        yield {}

    with pytest.raises(ImpactIndexError, match="overwrite=True"):
        index.index(encoder())
    index.toks_indexer(overwrite=True).index(documents(3))
    assert impacts(cluster) == expected(3)


def test_documents_of_another_input_are_noticed(cluster: FakeCluster) -> None:
    cluster.faults += BEFORE_BULK + [lambda *request: None] * 2 + [status(400, "bad")]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(ImpactIndexError):
        small_requests(index, parallel=1).index(documents())
    with pytest.raises(ImpactIndexError, match=r"contains [1-9]\d* documents, but 2 were sent.*another input"):
        index.index(documents(2))
    assert not index.built()


def test_exception_of_the_encoder_reaches_the_caller_and_leaves_no_complete_index(cluster: FakeCluster) -> None:
    def encoder() -> Iterator[dict[str, Any]]:
        yield from documents(60)
        raise MemoryError("out of memory at document 60")

    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(MemoryError, match="document 60"):
        small_requests(index).index(encoder())
    assert not index.built()
    index.index(documents(100))
    assert impacts(cluster) == expected(100)


def test_repr_of_an_indexer_is_the_call_that_makes_it(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    assert repr(index.toks_indexer()) == f"{index!r}.toks_indexer()"
    indexer = index.toks_indexer(meta=["url"], text="text", shards=3)
    assert repr(indexer) == f"{index!r}.toks_indexer(meta={{'url': 'keyword'}}, text='text', shards=3)"


def test_requests_hold_a_bounded_number_of_documents(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_MAX_RECORDS", 4)
    OpenSearchIndex(cluster.client(), "docs").index(documents(10))
    assert [path for _, path in cluster.requests].count("/docs/_bulk") == 3
