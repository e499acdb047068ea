"""One OpenSearch server for all tests that need one node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One node, which tests may kill and start again; each test names its own indexes."""
    from support.opensearch_cluster import running

    with running(tmp_path_factory.mktemp("opensearch"), nodes=1) as cluster:
        yield cluster
