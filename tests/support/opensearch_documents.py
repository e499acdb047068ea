"""Documents to load into a fake cluster, and its expected content."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from inside.engines import Backoff, connection, remote
from pyterrier_csplade import Contract, DataError, ImpactVector, OpenSearchIndex
from support.fake_opensearch import FakeCluster

CONTRACT = Contract(weights="w", base_model="lm-one")
# Requests before the first bulk: version, mapping twice, creation.
BEFORE_BULK: list[Any] = [lambda *request: None] * 4


def shorten_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.001, 0.002, 1.0))
    for module in (remote, connection):
        monkeypatch.setattr(module, "_BACKOFF", Backoff())
    monkeypatch.setattr(remote, "_LOAD_BACKOFF", Backoff())


def documents(count: int = 25, contract: Contract | None = CONTRACT) -> list[dict[str, Any]]:
    return [{"docno": f"d{i}", "toks": ImpactVector({"a": i % 512 + 1, f"b{i}": 2}, contract)} for i in range(count)]


def expected(count: int = 25) -> dict[str, dict[str, int]]:
    return {f"d{i}": {"a": i % 512 + 1, f"b{i}": 2} for i in range(count)}


def impacts(cluster: FakeCluster, name: str = "docs") -> dict[str, dict[str, int]]:
    return {docno: document.get("impacts", {}) for docno, document in cluster.documents(name).items()}


def small_requests(index: OpenSearchIndex, **options: Any) -> Any:
    return index.toks_indexer(request_bytes=300, **options)


def failing(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from rows
    raise DataError("enough")
