"""Three real OpenSearch nodes answer as one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pyterrier_csplade import ImpactIndexError, OpenSearchIndex
from support.opensearch_cluster import DOCUMENTS, assert_exact, collection, frame, load_and_kill, queries, running

pytestmark = pytest.mark.opensearch


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(tmp_path_factory.mktemp("opensearch"), nodes=3) as cluster:
        yield cluster


def test_three_nodes(cluster: Any) -> None:
    vectors, wanted = collection(), queries()
    index = OpenSearchIndex(cluster.urls[1], "spread")
    index.index_vectors(vectors, shards=3, replicas=1, request_bytes=500_000)
    assert len(index) == DOCUMENTS
    assert cluster.request("GET", "/_cluster/health/spread?wait_for_status=green&timeout=60s")["status"] == "green"
    shards = cluster.request("GET", "/_cat/shards/spread?format=json")
    assert len(shards) == 6 and len({shard["node"] for shard in shards}) == 3
    for k in (10, 1000):
        # Each node, and whichever copy of a shard it asks.
        for url in cluster.urls:
            result = OpenSearchIndex(url, "spread").retriever(num_results=k)(frame(wanted))
            assert_exact(result, vectors, wanted, k)


def test_ties_come_in_the_order_of_docnos(cluster: Any) -> None:
    docnos = [f"d{i * 7919 % 3000}" for i in range(3000)]
    index = OpenSearchIndex(cluster.url, "ties")
    index.toks_indexer(shards=5, replicas=1).index({"docno": docno, "toks": {"a": 3, "b": 6}} for docno in docnos)
    for k in (1, 10, 1000, 3000):
        result = index.retriever(num_results=k)(frame([{"a": 0.1, "b": 0.2}]))
        assert result["docno"].tolist() == sorted(docnos)[:k]


def test_kill_of_all_nodes_in_the_middle_of_a_load_loses_and_doubles_nothing(cluster: Any) -> None:
    """The load survives, or fails and is repeated."""
    vectors, wanted = collection(2000), queries()[:30]
    index = OpenSearchIndex(cluster.urls[2], "killed")
    failures = load_and_kill(cluster, index, vectors, 900, restart=True)
    if failures:
        assert isinstance(failures[0], ImpactIndexError) and not index.built()
        index.index_vectors(vectors, shards=2, replicas=0, request_bytes=100_000)
    assert index.built() and len(index) == 2000
    for k in (10, 1000):
        assert_exact(index.retriever(num_results=k)(frame(wanted)), vectors, wanted, k)
