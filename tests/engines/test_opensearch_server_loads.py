"""Loads into one real OpenSearch node that fail, are disturbed or killed: nothing lost, nothing doubled, settings restored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
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
    running,
    start,
)

pytestmark = pytest.mark.opensearch

VECTORS = collection()
QUERIES = queries()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(tmp_path_factory.mktemp("opensearch"), nodes=1) as cluster:
        yield cluster


def test_faults_between_client_and_server_lose_and_double_nothing(cluster: Any) -> None:
    """Statuses 429 and 503, connections that break before and after the work is done, an answer cut off, a stall."""
    vectors = MatrixVectors(VECTORS.docnos[:1000], VECTORS.matrix[:1000], VOCABULARY, CONTRACT)
    with FaultyProxy(cluster.url, stall=4.0) as proxy:
        index = OpenSearchIndex(proxy.url, "faulty", timeout=1.5)
        index.index_vectors(vectors, replicas=0, request_bytes=100_000)
        assert set(proxy.done) == set(FAULTS), "all of them happened"
    index = OpenSearchIndex(cluster.url, "faulty")
    assert index.built() and len(index) == 1000
    assert_exact(index.retriever(num_results=1000)(frame(QUERIES[:20])), vectors, QUERIES[:20], 1000)


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


def test_server_without_rank_features_is_refused_before_the_first_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "MODULES", [module for module in start.MODULES if "MapperExtras" not in module])
    with running(tmp_path, nodes=1) as cluster:
        index = OpenSearchIndex(cluster.url, "docs")
        with pytest.raises(ImpactIndexError, match="has no fields of type rank_features: install its module mapper-extras"):
            index.index([{"docno": "d", "toks": {"a": 1}}])
        assert not index.built()


def test_settings_are_restored_after_the_load(cluster: Any) -> None:
    index = OpenSearchIndex(cluster.url, "settings")
    index.toks_indexer(replicas=2, shards=2).index([{"docno": "d", "toks": {"a": 1}}])
    settings = cluster.request("GET", "/settings/_settings")["settings"]["settings"]["index"]
    assert (settings["number_of_replicas"], settings["number_of_shards"]) == ("2", "2") and "refresh_interval" not in settings


def test_kills_in_the_middle_of_a_load_lose_and_double_nothing(cluster: Any) -> None:
    """Five kills at random moments: the load that lives through it, and the one that is made again, both end exact."""
    generator = random.Random(11)
    index = OpenSearchIndex(cluster.url, "killed")
    vectors = MatrixVectors(VECTORS.docnos[:2000], VECTORS.matrix[:2000], VOCABULARY, CONTRACT)
    for attempt in range(5):
        if attempt:
            cluster.request("DELETE", "/killed")
        moment = generator.randrange(200, 1700)
        failures = load_and_kill(cluster, index, vectors, moment, restart=attempt % 2 == 0)
        if failures:
            assert isinstance(failures[0], ImpactIndexError) and not index.built()
            index.index_vectors(vectors, shards=2, replicas=0, request_bytes=100_000)
        else:
            assert attempt % 2 == 0
        assert index.built() and len(index) == 2000
        assert_exact(index.retriever(num_results=10)(frame(QUERIES[:30])), vectors, QUERIES[:30], 10)
    assert_exact(index.retriever(num_results=1000)(frame(QUERIES)), vectors, QUERIES, 1000)
