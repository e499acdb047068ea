"""Three real OpenSearch nodes answer as one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opensearch_cluster import assert_exact, collection, frame, queries, running

from pyterrier_csplade import OpenSearchIndex

pytestmark = pytest.mark.opensearch


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(tmp_path_factory.mktemp("opensearch"), nodes=3) as cluster:
        yield cluster


def test_three_nodes(cluster: Any) -> None:
    vectors, wanted = collection(), queries()
    index = OpenSearchIndex(cluster.urls[1], "spread")
    index.index_vectors(vectors, shards=3, replicas=1, request_bytes=500_000)
    assert len(index) == 5000
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
