"""Loads into one real OpenSearch node that fail, are disturbed or killed: nothing lost, nothing doubled, settings restored."""

from __future__ import annotations

from typing import Any

import pytest

from pyterrier_csplade import DataError, ImpactIndexError, MatrixVectors, OpenSearchIndex
from support.faulty_proxy import FAULTS, FaultyProxy
from support.opensearch_cluster import (
    CONTRACT,
    VOCABULARY,
    assert_exact,
    collection,
    frame,
    load_and_kill,
    queries,
)

pytestmark = pytest.mark.opensearch


def test_faults_between_client_and_server_lose_and_double_nothing(cluster: Any) -> None:
    """Statuses 429 and 503, connections that break before and after the work is done, an answer cut off, a stall."""
    vectors = MatrixVectors(collection().docnos[:1000], collection().matrix[:1000], VOCABULARY, CONTRACT)
    with FaultyProxy(cluster.url, stall=4.0) as proxy:
        index = OpenSearchIndex(proxy.url, "faulty", timeout=1.5)
        index.index_vectors(vectors, replicas=0, request_bytes=100_000)
        assert set(proxy.done) == set(FAULTS), "all of them happened"
    index = OpenSearchIndex(cluster.url, "faulty")
    assert index.built() and len(index) == 1000
    assert_exact(index.retriever(num_results=1000)(frame(queries()[:20])), vectors, queries()[:20], 1000)


def test_settings_are_restored_after_a_load_that_fails(cluster: Any) -> None:
    index = OpenSearchIndex(cluster.url, "failed")
    rows = [{"docno": "d", "toks": {"a": 1}}, {"docno": "e", "toks": {"a": 513}}]
    with pytest.raises(DataError, match="above 512"):
        index.toks_indexer(replicas=2).index(rows)
    settings = cluster.request("GET", "/failed/_settings")["failed"]["settings"]["index"]
    assert settings["number_of_replicas"] == "2" and "refresh_interval" not in settings and not index.built()


def test_a_load_logs_nothing(cluster: Any, caplog: pytest.LogCaptureFixture) -> None:
    index = OpenSearchIndex(cluster.url, "quiet").index([{"docno": "d", "toks": {"a": 1}}])
    assert len(index.retriever()(frame([{"a": 1.0}]))) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


def test_settings_are_restored_after_the_load(cluster: Any) -> None:
    index = OpenSearchIndex(cluster.url, "settings")
    index.toks_indexer(replicas=2, shards=2).index([{"docno": "d", "toks": {"a": 1}}])
    settings = cluster.request("GET", "/settings/_settings")["settings"]["settings"]["index"]
    assert (settings["number_of_replicas"], settings["number_of_shards"]) == ("2", "2") and "refresh_interval" not in settings


@pytest.mark.parametrize(("moment", "restart"), [(1000, True), (600, False)])
def test_kill_in_the_middle_of_a_load_loses_and_doubles_nothing(cluster: Any, moment: int, restart: bool) -> None:
    """A load that survives and a load that fails and is repeated both end exact."""
    index = OpenSearchIndex(cluster.url, f"killed-{moment}")
    vectors = MatrixVectors(collection().docnos[:2000], collection().matrix[:2000], VOCABULARY, CONTRACT)
    failures = load_and_kill(cluster, index, vectors, moment, restart=restart)
    if failures:
        assert isinstance(failures[0], ImpactIndexError) and not index.built()
        index.index_vectors(vectors, shards=2, replicas=0, request_bytes=100_000)
    else:
        assert restart
    assert index.built() and len(index) == 2000
    assert_exact(index.retriever(num_results=10)(frame(queries()[:30])), vectors, queries()[:30], 10)
    assert_exact(index.retriever(num_results=1000)(frame(queries())), vectors, queries(), 1000)
