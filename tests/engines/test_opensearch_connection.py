"""Clusters that do not answer, contain other indexes or are not OpenSearch; and passwords, which are never shown."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opensearchpy.exceptions import SSLError

from inside.engines import Backoff, connection
from pyterrier_csplade import Contract, ContractError, CspladeError, ImpactIndexError, OpenSearchIndex
from support.fake_opensearch import FakeCluster, broken, status

PASSWORD = "s3cr3t/p%ss"  # noqa: S105
QUERY = [{"qid": "1", "query_toks": {"a": 1.0}}]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_BACKOFF", Backoff(0.001, 0.001, 0.01))


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the client is made with."""
    import opensearchpy

    found: dict[str, Any] = {}

    class Client:
        def __init__(self, hosts: list[str], **settings: Any) -> None:
            found.update(settings, hosts=hosts)
            self.transport = FakeCluster().client().transport

    monkeypatch.setattr(opensearchpy, "OpenSearch", Client)
    return found


@pytest.mark.parametrize(
    ("url", "auth", "host", "expected"),
    [
        ("https://search.example", None, "https://search.example:443", None),
        ("http://localhost", None, "http://localhost:9200", None),
        ("https://[::1]:9201/path/", None, "https://[::1]:9201/path", None),
        ("https://me:s3cr3t%2Fp%25ss@h:1", None, "https://h:1", ("me", PASSWORD)),
        ("https://h:1", ("me", PASSWORD), "https://h:1", ("me", PASSWORD)),
    ],
)
def test_client_verifies_certificates_and_makes_one_attempt(
    settings: dict[str, Any], url: str, auth: Any, host: str, expected: Any
) -> None:
    OpenSearchIndex(url, "docs", auth=auth, timeout=7.0).built()
    assert settings["hosts"] == [host] and settings.get("http_auth") == expected
    assert settings["verify_certs"] is True and settings["max_retries"] == 0 and settings["timeout"] == 7.0


def test_ca_certs_reach_the_client(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "root-ca.pem"
    with pytest.raises(ValueError, match="no file .*root-ca.pem"):
        OpenSearchIndex("https://h:1", "docs", ca_certs=str(path))
    path.touch()
    OpenSearchIndex("https://h:1", "docs", ca_certs=str(path)).built()
    assert settings["ca_certs"] == str(path) and settings["verify_certs"] is True


def test_settings_of_a_connection_are_checked_before_it_is_made() -> None:
    for timeout in (0, -1, float("nan"), "60", None):
        with pytest.raises(ValueError, match="timeout must be a number of seconds above 0"):
            OpenSearchIndex("https://h:1", "docs", timeout=timeout)  # type: ignore[arg-type]
    for auth in ("user", ("user",), {"user": "password"}):
        with pytest.raises(ValueError, match="auth must be a pair of user and password"):
            OpenSearchIndex("https://h:1", "docs", auth=auth)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["localhost:9200", "ftp://h", "", "http://", f"http://me:{PASSWORD}@h:port", "https:///x"])
def test_malformed_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        OpenSearchIndex(url, "docs")
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


class Asynchronous:
    """Like the transport of AsyncOpenSearch."""

    transport: Any

    async def perform_request(self) -> None: ...


Asynchronous.transport = Asynchronous()


@pytest.mark.parametrize("server", [None, 9200, ["http://localhost:9200"], Asynchronous()])
def test_other_objects_than_clusters_are_refused_at_once(server: Any) -> None:
    with pytest.raises(ValueError, match="URL of a cluster or a .synchronous. client of opensearch-py"):
        OpenSearchIndex(server, "docs")


def test_credentials_are_given_once() -> None:
    with pytest.raises(ValueError, match="give them once"):
        OpenSearchIndex("https://me:x@h", "docs", auth=("me", "x"))
    with pytest.raises(ValueError, match="a client has its own"):
        OpenSearchIndex(FakeCluster().client(), "docs", auth=("me", "x"))


@pytest.mark.parametrize("name", ["", "Docs", "_docs", ".docs", "a/b", "a,b", "a b", "a*", "../x", "x" * 256, "-a"])
def test_name_that_no_index_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of an index"):
        OpenSearchIndex("http://localhost:9200", name)


FAILURES = [
    status(401, f"no {PASSWORD}"),
    status(403, f"not {PASSWORD}"),
    status(500, PASSWORD),
    broken(message=f"refused {PASSWORD}"),
    broken(SSLError, f"certificate verify failed {PASSWORD}"),
]


@pytest.mark.parametrize("fault", FAILURES)
def test_nothing_shows_a_password(fault: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, logger="pyterrier_csplade")
    cluster = FakeCluster()
    index = OpenSearchIndex("https://me:s3cr3t%2Fp%25ss@search.example:9200", "docs")
    monkeypatch.setattr(index.remote.connection, "_client", cluster.client())
    cluster.faults += [fault] * 100
    with pytest.raises(ImpactIndexError) as caught:
        index.retriever()(QUERY)
    shown = "".join(traceback.format_exception(caught.value)) + repr(index) + repr(index.retriever()) + str(index.remote)
    shown += repr(index.toks_indexer()) + repr(index.remote.connection) + caplog.text
    assert PASSWORD not in shown and "s3cr3t" not in shown and "search.example:9200" in shown


def test_repr_of_a_client_with_a_password_shows_its_host_alone() -> None:
    index = OpenSearchIndex(FakeCluster().client("https://me:s3cr3t@search.example:9200"), "docs")
    assert repr(index) == "OpenSearchIndex('search.example:9200', 'docs')"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401, "unauthorized"), "401.*does auth="),
        (status(403, "index_create_block"), "403 index_create_block_exception.*is a disk of the cluster nearly full"),
        (broken(), "cannot reach cluster:9200"),
        (broken(SSLError, "self signed certificate"), "cannot reach.*self signed certificate.*ca_certs"),
        (lambda *request: (404, "<html>not here</html>"), "404.*not here"),
        (status(503), "503"),
    ],
)
def test_cluster_that_does_not_answer(fault: Any, message: str) -> None:
    cluster = FakeCluster()
    cluster.faults += [fault] * 1000
    acts: list[Callable[[Any], Any]] = [lambda i: i.retriever()(QUERY), lambda i: i.index([]), lambda i: i.built()]
    for act in acts:
        with pytest.raises(ImpactIndexError, match=message):
            act(OpenSearchIndex(cluster.client(), "docs"))


def test_answer_that_is_not_json() -> None:
    cluster = FakeCluster()
    cluster.faults += [lambda *request: (200, "<html>a proxy")]
    with pytest.raises(ImpactIndexError, match="does not answer as OpenSearch"):
        OpenSearchIndex(cluster.client(), "docs").built()


def test_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    cluster = FakeCluster()
    cluster.faults += [broken(SSLError, "self signed certificate")] * 3
    with pytest.raises(ImpactIndexError):
        OpenSearchIndex(cluster.client(), "docs").built()
    assert len(cluster.requests) == 1


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ({"number": "8.15.0"}, "elasticsearch 8.15.0.*OpenSearch 2.0 or newer"),
        ({"distribution": "opensearch", "number": "1.3.20"}, "opensearch 1.3.20"),
        ({}, "OpenSearch 2.0 or newer"),
        ({"distribution": "opensearch", "number": "1.x"}, "opensearch 1.x"),
        ({"distribution": "opensearch", "number": "next"}, "opensearch next"),
        ({"distribution": "opensearch", "number": None}, "opensearch None"),
        ("3.8.0", "OpenSearch 2.0 or newer"),
    ],
)
def test_server_of_another_kind_is_refused_before_the_first_document(version: Any, message: str) -> None:
    cluster = FakeCluster()
    cluster.version = version

    def encoder() -> Any:
        raise AssertionError("a document was encoded")
        yield

    with pytest.raises(ImpactIndexError, match=message):
        OpenSearchIndex(cluster.client(), "docs").index(encoder())


@pytest.mark.parametrize("number", ["2.x", "3.0.0-alpha1", "3", "10.1-SNAPSHOT"])
def test_versions_in_development_are_read(number: str) -> None:
    cluster = FakeCluster()
    cluster.version["number"] = number
    assert OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1}}]).built()


@pytest.mark.parametrize("answer", [[], "OK", {"docs": []}, {"docs": {}}, {"docs": {"mappings": 3}}])
def test_answers_of_another_form_are_refused(answer: Any) -> None:
    cluster = FakeCluster()
    cluster.faults += [lambda *request: None, lambda *request: (200, answer)]
    with pytest.raises(ImpactIndexError, match="cluster:9200 does not answer as OpenSearch"):
        OpenSearchIndex(cluster.client(), "docs").built()


def test_server_without_rank_features_is_refused() -> None:
    cluster = FakeCluster()
    error = {"type": "mapper_parsing_exception", "reason": "No handler for type [rank_features] declared on field [impacts]"}
    cluster.faults += [lambda *request: None] * 3 + [lambda *request: (400, {"error": error})]
    with pytest.raises(ImpactIndexError, match="mapper-extras"):
        OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1}}])


@pytest.mark.parametrize("mapping", [{}, {"properties": {"docno": {"type": "text"}}}, {"_meta": {"csplade": {"format": 1}}}])
def test_index_of_another_program_is_refused(mapping: dict[str, Any]) -> None:
    cluster = FakeCluster()
    cluster.indexes["docs"] = {"documents": {}, "mappings": mapping, "settings": {}}
    index = OpenSearchIndex(cluster.client(), "docs")
    for act in (lambda: index.retriever()(QUERY), lambda: index.index([{"docno": "d", "toks": {"a": 1}}])):
        with pytest.raises(ImpactIndexError, match="is not an index of impacts"):
            act()


@pytest.mark.parametrize("metadata", [None, "x", ["format"], {}, {"csplade": None}, {"csplade": "x"}, {"csplade": ["format"]}])
def test_metadata_of_another_form_is_refused(metadata: Any) -> None:
    cluster = FakeCluster()
    index = OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1}}])
    cluster.indexes["docs"]["mappings"]["_meta"] = metadata
    with pytest.raises(ImpactIndexError, match="'docs' at .* is not an index of impacts"):
        index.retriever()(QUERY)


# Values of other forms than those that this package writes.
NO_NUMBERS: list[Any] = [None, "x", [], {}, -1, True]
CHANGED: dict[str, list[Any]] = {
    "scale": NO_NUMBERS,
    "documents": NO_NUMBERS,
    "quantization_loss": NO_NUMBERS,
    "format": [None, "x", [], {}, -1, 0],
    "terms": [None, [], {}, 3],
    "complete": [None, "x", [], 1],
    "fields": [None, "x", {}, [3]],
    "contract": ["x", [], 3, {"unknown": 1}, {"format": "x"}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CHANGED.items() for value in values])
def test_metadata_that_was_changed_is_named(name: str, value: Any) -> None:
    cluster = FakeCluster()
    index = OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1}}])
    cluster.indexes["docs"]["mappings"]["_meta"]["csplade"][name] = value
    is_contract = name == "contract"
    error = ContractError if is_contract else ImpactIndexError
    message = "the mapping of 'docs' at" if is_contract else f"does not write such a '{name}'"
    with pytest.raises(error, match=message):
        index.retriever()(QUERY)


@pytest.mark.parametrize("change", [{"format": None}, {"scale": None}, {"terms": None}, {"colour": 3}])
def test_metadata_with_other_fields_is_refused(change: dict[str, Any]) -> None:
    cluster = FakeCluster()
    index = OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1}}])
    values = cluster.indexes["docs"]["mappings"]["_meta"]["csplade"]
    for name, value in change.items():
        values.pop(name, None)
        if value is not None:
            values[name] = value
    with pytest.raises(ImpactIndexError, match="is not an index of impacts, or its mapping was changed"):
        index.retriever()(QUERY)


def test_index_of_a_newer_format_is_refused() -> None:
    cluster = FakeCluster()
    index = OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1}}])
    cluster.indexes["docs"]["mappings"]["_meta"]["csplade"]["format"] = 2
    with pytest.raises(ImpactIndexError, match="newer format"):
        index.retriever()(QUERY)


def test_shards_that_fail_are_noticed() -> None:
    cluster = FakeCluster()
    index = OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1}}])
    cluster.faults += [lambda *request: (200, {"count": 0, "_shards": {"failed": 2}})]
    with pytest.raises(ImpactIndexError, match="2 shards.*is a node down"):
        len(index)


def test_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensearchpy", None)
    with pytest.raises(CspladeError, match=r"OpenSearchIndex needs .*pip install \"pyterrier-csplade\[opensearch\]\""):
        OpenSearchIndex("http://localhost:1", "docs").built()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"contract": Contract(weights="v").to_dict()}, "differ in contract"),
        ({"scale": 0.5}, "differ in scale"),
        ({"fields": ["url"]}, "differ in fields"),
        ({"complete": False}, "load of 'two' .* was interrupted"),
        ({"terms": "token ids"}, "vocabulary"),
    ],
)
def test_alias_joins_indexes_that_were_built_alike(change: dict[str, Any], message: str) -> None:
    cluster = FakeCluster()
    for name, count in (("one", 2), ("two", 3)):
        rows = [{"docno": f"{name}{i}", "toks": {"a": 1}} for i in range(count)]
        OpenSearchIndex(cluster.client(), name).index(rows)
    cluster.aliases["both"] = ["one", "two"]
    cluster.indexes["two"]["mappings"]["_meta"]["csplade"].update(change)
    both = OpenSearchIndex(cluster.client(), "both")
    if message:
        with pytest.raises(ImpactIndexError, match=message):
            both.statistics  # noqa: B018
    else:
        assert both.statistics["documents"] == both.statistics["postings"] == 5
    with pytest.raises(ImpactIndexError, match="is an alias of 2 indexes.*name one"):
        both.index([{"docno": "d", "toks": {"a": 1}}])
