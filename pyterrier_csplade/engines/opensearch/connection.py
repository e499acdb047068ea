"""Requests to a cluster: retried where that is safe, and never an error that shows a password or a server's stack trace."""

from __future__ import annotations

import importlib
import inspect
import json
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pyterrier_csplade._errors import CspladeError, ImpactIndexError

#: Answers that a later attempt may change: too many requests, and nodes or proxies that are not ready.
RETRIED = frozenset({429, 502, 503, 504})

_OLDEST = (2, 0)


@dataclass(frozen=True)
class Backoff:
    """Pauses that grow exponentially, each drawn anew between 0 and its bound, so that clients do not come back in step.

    "Full jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The defaults are ours: a node
    that is killed has been seen to need up to 70 seconds until it answers again.

    Attributes:
        first: Bound of the first pause, in seconds; it doubles from one to the next.
        longest: Bound of any pause.
        patience: Seconds since the first attempt after which there is no further one. 0: only one attempt.
    """

    first: float = 0.5
    longest: float = 30.0
    patience: float = 300.0

    def pauses(self) -> Iterator[float]:
        """Yield how long to wait before the next attempt, until patience is exhausted."""
        end = time.monotonic() + self.patience
        bound = self.first
        while (left := end - time.monotonic()) > 0:
            yield min(random.uniform(0, bound), left)
            bound = min(2 * bound, self.longest)


# Whoever names a cluster that is not there wants to know soon (ours).
_BACKOFF = Backoff(patience=5.0)


class RequestRefusedError(ImpactIndexError):
    """The cluster answered with an error that no further attempt changes.

    Attributes:
        status: HTTP status.
        kind: The server's name of the error.
        reason: Its explanation.
    """

    def __init__(self, message: str, status: int, kind: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.reason = reason


class Connection:
    """A cluster.

    All requests of this package may be sent again: documents are put under their docno, settings are set to values.

    Attributes:
        name: How messages call the cluster: its URL without user and password.
    """

    def __init__(
        self, server: Any, *, auth: tuple[str, str] | None = None, ca_certs: str | None = None, timeout: float = 60.0
    ) -> None:
        """Name a cluster; nothing is sent yet.

        Args:
            server: Its URL, or a client of opensearch-py.
            auth: User and password.
            ca_certs: File with the certificates to trust in place of the system's.
            timeout: Seconds to wait for an answer.

        Raises:
            ValueError: The URL is none, or settings are given beside a client, which has its own.
        """
        self._secrets: tuple[str, ...] = ()
        self._checked = False
        if ca_certs is not None and not Path(ca_certs).is_file():
            raise ValueError(f"ca_certs: there is no file {ca_certs}")
        if isinstance(server, str):
            self.name, auth = _split_url(server, auth)
            self._secrets = tuple(secret for secret in (auth or ())[1:] if secret)
            self._client: Any = None
            self._settings = {"http_auth": auth, "ca_certs": ca_certs}
        else:
            if auth is not None or ca_certs is not None:
                raise ValueError("a client brings its own auth and ca_certs: give a URL, or set them up in the client")
            send = getattr(getattr(server, "transport", None), "perform_request", None)
            if send is None or inspect.iscoroutinefunction(send):
                raise ValueError(
                    f"a cluster is named by its URL or by a (synchronous) client of opensearch-py, found {server!r}"
                )
            hosts = [f"{host.get('host')}:{host.get('port', 9200)}" for host in server.transport.hosts]
            self.name, self._client = ",".join(hosts), server
        self._timeout = timeout

    def __call__(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        backoff: Backoff,
        params: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Any]:
        """Send a request until it is answered.

        Args:
            method: HTTP method.
            path: Path, quoted.
            body: JSON, or lines of JSON.
            backoff: When to try again after a broken connection, a time-out or a status in ``RETRIED``.
            params: Parameters of the URL.
            stop: When it is set, no further attempt is made.

        Returns:
            The answer.

        Raises:
            RequestRefusedError: The cluster refused the request.
            ImpactIndexError: There was no answer, or only such as let hope for another.
        """
        pauses, stop = backoff.pauses(), stop or threading.Event()
        while True:
            try:
                answer: dict[str, Any] = self._send(method, path, body, params)
                return answer
            except self._errors().TransportError as error:
                failure, again = self._translate(error)
            except self._errors().OpenSearchException as error:
                raise ImpactIndexError(
                    f"{self.name} answered what no OpenSearch does: {self.redact(str(error))[:500]}"
                ) from None
            pause = next(pauses, None) if again else None
            if pause is None:
                raise failure from None  # the client's own error would print headers and server traces
            if stop.wait(pause):
                raise failure from None

    def check(self) -> None:
        """Refuse what is not a server that this package knows.

        Raises:
            ImpactIndexError: It is not reached, or is no OpenSearch, or one that is too old.
        """
        if self._checked:
            return
        version = self("GET", "/", backoff=_BACKOFF).get("version", {})
        product, number = version.get("distribution", "elasticsearch"), str(version.get("number", "0.0"))
        if product != "opensearch" or tuple(int(part) for part in number.split(".")[:2]) < _OLDEST:
            needed = ".".join(map(str, _OLDEST))
            raise ImpactIndexError(f"{self.name} is {product} {number}: impacts need OpenSearch {needed} or newer")
        self._checked = True

    def redact(self, text: str) -> str:
        """Return a text without passwords."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _send(self, method: str, path: str, body: Any, params: Mapping[str, str] | None) -> Any:
        if self._client is None:
            client = _opensearchpy().OpenSearch
            # One attempt each: it would try again at once, without a pause.
            self._client = client(
                [self.name], **self._settings, verify_certs=True, timeout=self._timeout, max_retries=0, pool_maxsize=32
            )
        headers = {"content-type": "application/x-ndjson"} if isinstance(body, bytes) else None
        return self._client.transport.perform_request(method, path, params=dict(params or {}), body=body, headers=headers)

    def _errors(self) -> Any:
        return _opensearchpy().exceptions

    def _translate(self, error: Any) -> tuple[ImpactIndexError, bool]:
        """Return the error to raise, and whether another attempt may help."""
        status = error.status_code
        if not isinstance(status, int):
            certificate = isinstance(error, self._errors().SSLError)
            remedy = "; ca_certs names the file of an authority that the system does not know" if certificate else ""
            reason = self.redact(str(error.info or error.error))
            return ImpactIndexError(f"cannot reach {self.name}: {reason}{remedy}"), not certificate
        kind, reason = explain(error.info) if error.info else (str(error.error), "")
        kind, reason = self.redact(kind), self.redact(reason)
        if "block" in kind:  # also 403
            reason += ": is a disk of the cluster nearly full?"
        elif status in (401, 403):
            reason += ": does auth=(user, password) name somebody who may do this?"
        message = f"{self.name} answered {status} {kind}{': ' if reason else ''}{reason}"
        return RequestRefusedError(message, status, kind, reason), status in RETRIED


def explain(info: Any) -> tuple[str, str]:
    """Return kind and reason of an error as the server describes it, the innermost that says something."""
    error = info.get("error", info) if isinstance(info, Mapping) else info
    if not isinstance(error, Mapping):
        return str(error)[:500], ""
    while True:
        inner: Any = error.get("caused_by") or next(iter(error.get("root_cause") or ()), None)
        if not isinstance(inner, Mapping) or not inner.get("reason"):
            return str(error.get("type", "error")), str(error.get("reason", ""))[:500]
        error = inner


def ndjson(values: Iterable[Mapping[str, Any]]) -> bytes:
    """Return lines of JSON, all ASCII: whatever a value holds, it ends no line."""
    return "".join(json.dumps(value) + "\n" for value in values).encode("ascii")


def _split_url(url: str, auth: tuple[str, str] | None) -> tuple[str, tuple[str, str] | None]:
    """Return the URL without user and password, and these."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the URL of the cluster has a port that is none") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the URL of a cluster has the form https://host:9200")
    if parts.username is not None:
        if auth is not None:
            raise ValueError("user and password stand in the URL and in auth: give them once")
        auth = unquote(parts.username), unquote(parts.password or "")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    # Without a port the client would take 9200 for http, and for https too.
    netloc = f"{host}:{port or (443 if parts.scheme == 'https' else 9200)}"
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", "")), auth


def _opensearchpy() -> Any:
    try:
        return importlib.import_module("opensearchpy")
    except ImportError as error:
        raise CspladeError('OpenSearchIndex needs opensearch-py: pip install "pyterrier_csplade[opensearch]"') from error
