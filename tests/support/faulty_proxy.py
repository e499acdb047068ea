"""A proxy between a client and a real server that disturbs bulk requests as networks and busy servers do."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: Faults, one for each of the first bulk requests.
FAULTS = ("429", "reset before", "503", "reset after", "cut off", "stall")


class FaultyProxy:
    """Forwards requests; each fault happens to two of the first bulk requests.

    Attributes:
        done: The faults that have happened.
    """

    def __init__(self, upstream: str, *, stall: float) -> None:
        self.done: list[str] = []
        self._waiting = [fault for fault in FAULTS for _ in range(2)]
        self._upstream = urlsplit(upstream)
        self._stall = stall
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, BrokenPipeError):
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.handle(self, body)

            do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        fault = ""
        with self._lock:
            if "/_bulk" in handler.path and self._waiting:
                fault = self._waiting.pop(0)
                self.done.append(fault)
        if fault == "reset before":
            _close(handler)
        elif fault in ("429", "503"):
            _send(handler, int(fault), b'{"error": {"type": "busy", "reason": "busy"}, "status": 429}')
        else:
            status, answer = self._pass_on(handler, body)
            if fault == "stall":
                time.sleep(self._stall)
            if fault == "reset after":
                _close(handler)
            else:
                _send(handler, status, answer, cut=fault == "cut off")

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port)
        headers = {"Content-Type": handler.headers.get("Content-Type") or "application/json"}
        connection.request(handler.command, handler.path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, answer


def _send(handler: BaseHTTPRequestHandler, status: int, answer: bytes, *, cut: bool = False) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(answer)))
    handler.end_headers()
    handler.wfile.write(answer[: len(answer) // 2] if cut else answer)
    if cut:
        _close(handler)


def _close(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
