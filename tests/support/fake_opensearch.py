"""A fake cluster in memory, behind the transport of the official client, that fails on request."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import numpy as np
from opensearchpy import Connection, OpenSearch
from opensearchpy.exceptions import ConnectionError as ConnectionBroken

Answer = tuple[int, Any]
Fault = Callable[[str, str, Any], "Answer | None"]


class FakeCluster:
    """The cluster's content, its requests (with the last parameters), and the faults of its next answers.

    A fault takes method, path and body of a request. It raises an error, returns an answer, or returns None to let the cluster
    answer.
    """

    def __init__(self) -> None:
        self.version: dict[str, Any] = {"distribution": "opensearch", "number": "3.8.0"}
        self.indexes: dict[str, dict[str, Any]] = {}
        self.aliases: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.params: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self.max_clauses = 1024
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    def client(self, url: str = "http://cluster:9200", **settings: Any) -> OpenSearch:
        connection_class = type("FakeConnection", (_Connection,), {"cluster": self})
        return OpenSearch([url], connection_class=connection_class, max_retries=0, **settings)

    def documents(self, name: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.indexes[name]["documents"]
        return found

    def answer(self, method: str, path: str, body: Any) -> Answer:
        with self.lock:
            self.requests.append((method, path))
            fault = self.faults.pop(0) if self.faults else None
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            found = None if fault is None else fault(method, path, body)
            with self.lock:
                return self._answer(method, path, body) if found is None else found
        finally:
            with self.lock:
                self.under_way -= 1

    def _answer(self, method: str, path: str, body: Any) -> Answer:
        if path == "/":
            return 200, {"version": self.version}
        if path == "/_cluster/settings":
            self.max_clauses = json.loads(body)["persistent"]["indices.query.bool.max_clause_count"]
            return 200, {}
        name, _, operation = unquote(path[1:]).partition("/")
        if method == "PUT" and not operation:
            values = json.loads(body)
            if name in self.indexes:
                return 400, {"error": {"type": "resource_already_exists_exception", "reason": f"[{name}] already exists"}}
            self.indexes[name] = {"documents": {}, "mappings": values["mappings"], "settings": values["settings"]["index"]}
            return 200, {}
        if name in self.aliases and operation == "_mapping":
            return 200, {part: {"mappings": self.indexes[part]["mappings"]} for part in self.aliases[name]}
        if name in self.aliases:
            (name,) = self.aliases[name]
        if name not in self.indexes:
            return 404, {"error": {"type": "index_not_found_exception", "reason": f"no such index [{name}]"}}
        index = self.indexes[name]
        if method == "DELETE":
            del self.indexes[name]
            return 200, {}
        return self._index_operation(name, index, method, operation, body)

    def _index_operation(self, name: str, index: dict[str, Any], method: str, operation: str, body: Any) -> Answer:
        shards = {"_shards": {"failed": 0}}
        if operation == "_mapping" and method == "GET":
            return 200, {name: {"mappings": index["mappings"]}}
        if operation == "_mapping":
            index["mappings"] |= json.loads(body)
            return 200, {}
        if operation == "_settings":
            index["settings"] |= json.loads(body)["index"]
            return 200, {}
        if operation == "_refresh":
            return 200, shards
        if operation == "_count":
            return 200, {"count": len(index["documents"]), **shards}
        if operation == "_bulk":
            lines = [json.loads(line) for line in body.splitlines()]
            for action, document in zip(lines[::2], lines[1::2]):
                index["documents"][action["index"]["_id"]] = document
            return 200, {"errors": False, "items": [{"index": {**action["index"], "status": 201}} for action in lines[::2]]}
        assert operation == "_msearch", operation
        bodies = [json.loads(line) for line in body.splitlines()][1::2]
        return 200, {"responses": [self._search(index, search) for search in bodies]}

    def _search(self, index: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        clauses = body["query"]["bool"].get("should", [])
        if len(clauses) > self.max_clauses:
            return {"status": 400, "error": {"type": "too_many_clauses", "reason": "maxClauseCount is set to 1024"}}
        wanted = body["query"]["bool"].get("filter", [{}])[0].get("terms", {}).get("docno")
        weights = {clause["rank_feature"]["field"].removeprefix("impacts."): clause["rank_feature"] for clause in clauses}
        found = []
        for docno, document in index["documents"].items():
            impacts = document.get("impacts", {})
            products = [np.float32(weights[term]["boost"]) * np.float32(impacts[term]) for term in weights if term in impacts]
            if docno in wanted if wanted is not None else products:
                found.append({"sort": [float(np.float32(sum(products, 0.0))), docno], "_source": document})
        found.sort(key=lambda hit: (-hit["sort"][0], hit["sort"][1]))
        return {"status": 200, "timed_out": False, "hits": {"hits": found[: body["size"]]}}


@contextlib.contextmanager
def served(cluster: FakeCluster, password: str) -> Iterator[str]:
    """Serve a cluster by HTTP to a user "me" with a password; yield its URL, without them."""
    wanted = f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            known = self.headers.get("Authorization") == wanted
            path, _, params = self.path.partition("?")
            status, answer = _lenient(cluster.answer(self.command, path, body), params) if known else (401, {})
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args: Any) -> None:
            pass

        do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _lenient(answer: Answer, params: Any) -> Answer:
    return (200, {}) if answer[0] == 404 and "ignore_unavailable" in params and "index_not_found" in str(answer) else answer


class _Connection(Connection):
    cluster: FakeCluster

    def perform_request(self, method: str, url: str, params: Any = None, body: Any = None, *rest: Any, **more: Any) -> Any:
        self.cluster.params = dict(params or {})
        found = self.cluster.answer(method, url, body.decode() if isinstance(body, bytes) else body)
        status, answer = _lenient(found, params or {})
        raw = answer if isinstance(answer, str) else json.dumps(answer)
        if not 200 <= status < 300:
            self._raise_error(status, raw, "application/json")
        return status, {"content-type": "application/json"}, raw


def status(code: int, reason: str = "busy") -> Fault:
    """Answer the whole request with a status code."""
    return lambda method, path, body: (code, {"error": {"type": f"{reason}_exception", "reason": reason}, "status": code})


def broken(error: type[Exception] = ConnectionBroken, message: str = "connection reset by peer") -> Fault:
    """Break the connection."""

    def fault(method: str, path: str, body: Any) -> None:
        raise error("N/A", message, Exception(message))

    return fault


def items(cluster: FakeCluster, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Fault:
    """Execute a bulk request, but change the items in its answer."""

    def fault(method: str, path: str, body: Any) -> Answer:
        code, answer = cluster._answer(method, path, body)
        return code, {**answer, "errors": True, "items": change(answer["items"])}

    return fault
