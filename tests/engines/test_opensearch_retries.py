"""Requests that fail temporarily are sent again until patience ends; other failures end in one error."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import numpy as np
import pytest
from opensearchpy.exceptions import ConnectionTimeout

from inside.engines import Backoff
from pyterrier_csplade import ImpactIndexError, OpenSearchIndex
from support.fake_opensearch import FakeCluster, broken, items, status
from support.opensearch_documents import BEFORE_BULK, documents, expected, impacts, shorten_pauses, small_requests


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch)


def test_a_cluster_that_is_gone_is_not_waited_for_twice(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.001, 0.002, 0.05))
    cluster.faults += BEFORE_BULK + [broken()] * 10_000
    with pytest.raises(ImpactIndexError, match="cannot reach"):
        OpenSearchIndex(cluster.client(), "docs").index(documents())
    assert [path for _, path in cluster.requests[-2:]] == ["/docs/_bulk", "/docs/_settings"]


FAULTS = {
    "429": [status(429), status(429)],
    "503": [status(503)],
    "504": [status(504)],
    "reset": [broken()],
    "stall": [broken(ConnectionTimeout, "read timed out")],
    "many": [status(503), broken(), status(429), broken(ConnectionTimeout, "read timed out")],
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 7])
def test_temporary_failures_are_tried_again(cluster: FakeCluster, name: str, at: int) -> None:
    let_pass = [lambda *request: None] * at
    cluster.faults += [*let_pass, *FAULTS[name]]
    small_requests(OpenSearchIndex(cluster.client(), "docs")).index(documents())
    assert impacts(cluster) == expected() and OpenSearchIndex(cluster.client(), "docs").built()
    assert not cluster.faults


def test_items_that_the_server_was_too_busy_for_are_sent_again_alone(cluster: FakeCluster) -> None:
    bodies: list[str] = []

    def reject_first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        docno = found[0]["index"]["_id"]
        del cluster.documents("docs")[docno]
        error = {"type": "rejected_execution_exception", "reason": "queue is full"}
        return [{"index": {"_id": docno, "status": 429, "error": error}}, *found[1:]]

    cluster.faults += BEFORE_BULK + [items(cluster, reject_first)]
    cluster.faults += [lambda method, path, body: bodies.append(body)]  # type: ignore[func-returns-value]
    OpenSearchIndex(cluster.client(), "docs").index(documents(10))
    assert impacts(cluster) == expected(10)
    assert [json.loads(line) for line in bodies[0].splitlines()][0] == {"index": {"_id": "d0"}} and len(
        bodies[0].splitlines()
    ) == 2


def test_answer_that_is_cut_off_is_no_acknowledgement(cluster: FakeCluster) -> None:
    def lose(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for item in found[4:]:
            del cluster.documents("docs")[item["index"]["_id"]]
        return found[:4]

    cluster.faults += BEFORE_BULK + [items(cluster, lose)]
    OpenSearchIndex(cluster.client(), "docs").index(documents(10))
    assert impacts(cluster) == expected(10)


@pytest.mark.parametrize("fault", [status(429), status(503), broken(), broken(ConnectionTimeout, "read timed out")])
def test_patience_ends_with_one_error(cluster: FakeCluster, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.001, 0.002, 0.05))
    cluster.faults += BEFORE_BULK + [fault] * 10_000
    with pytest.raises(ImpactIndexError, match="cluster:9200") as caught:
        OpenSearchIndex(cluster.client(), "docs").index(documents())
    assert caught.value.__cause__ is None and "Traceback" not in str(caught.value)


def test_items_and_requests_that_are_refused_share_one_patience(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each busy answer would otherwise give the next request all of the patience anew."""
    monkeypatch.setattr(Backoff, "pauses", lambda self: iter([0.0] * 5))

    def busy(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"index": {**item["index"], "status": 429, "error": {"type": "busy"}}} for item in found]

    cluster.faults += [*BEFORE_BULK, *[status(503), items(cluster, busy)] * 100]
    with pytest.raises(ImpactIndexError, match="503|did not accept 4 documents"):
        OpenSearchIndex(cluster.client(), "docs").index(documents(4))
    assert cluster.requests.count(("POST", "/docs/_bulk")) == 6


def test_searches_that_are_refused_share_one_patience(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = OpenSearchIndex(cluster.client(), "docs").index(documents(4)).retriever()
    monkeypatch.setattr(Backoff, "pauses", lambda self: iter([0.0] * 5))
    cluster.requests.clear()

    def busy(method: str, path: str, body: Any) -> Any:
        return 200, {"responses": [{"status": 429, "error": {"type": "busy", "reason": "queue is full"}}]}

    cluster.faults += [lambda *request: None, *[status(503), busy] * 100]
    with pytest.raises(ImpactIndexError, match="503|queue is full"):
        retriever([{"qid": "1", "query_toks": {"a": 1.0}}])
    assert sum("_msearch" in path for _, path in cluster.requests) == 6


def test_failure_does_not_wait_for_the_pauses_of_other_requests(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "pauses", lambda self: iter([60.0]))
    cluster.faults += BEFORE_BULK + [status(503), status(400, "bad")]
    start = time.monotonic()
    with pytest.raises(ImpactIndexError, match="503|400"):
        small_requests(OpenSearchIndex(cluster.client(), "docs")).index(documents())
    assert time.monotonic() - start < 30


def test_pauses_grow_and_are_drawn_anew() -> None:
    random.seed(1)
    pauses = [pause for pause, _ in zip(Backoff(1.0, 8.0, 1000.0).pauses(), range(400))]
    for place, bound in enumerate([1.0, 2.0, 4.0, 8.0, 8.0]):
        assert 0 <= pauses[place] <= bound
    later = np.array(pauses[4:])
    assert later.max() <= 8 and later.mean() == pytest.approx(4, rel=0.15) and len(set(later)) == len(later)
    assert list(Backoff(patience=0.0).pauses()) == []
