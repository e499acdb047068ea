"""Requests to a cluster, retried where that is safe; errors reveal neither passwords nor a server's stack traces."""

from __future__ import annotations

import inspect
import json
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade.engines.engine import require

#: Statuses that may change in a later attempt: too many requests, and nodes or proxies that are not ready.
RETRIED = frozenset({429, 502, 503, 504})

_OLDEST = (2, 0)


@dataclass(frozen=True)
class Backoff:
    """Exponentially growing pauses, each drawn between 0 and its bound, so that clients do not retry in step.

    "Full jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. opensearch-py's client
    retries without pauses, and its bulk helpers with the same pauses in all clients.

    Attributes:
        first: Bound of the first pause, in seconds, which is doubled for each further pause; our choice (not measured).
        longest: Bound of any pause, in seconds; our choice (not measured).
        patience: Seconds after the first failure until the last attempt; 0 allows one attempt. Our choice (measured: a killed
            node answered again after up to 70 seconds).
    """

    first: float = 0.5
    longest: float = 30.0
    patience: float = 300.0

    def pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each further attempt, until the patience is exhausted."""
        end = time.monotonic() + self.patience
        bound = self.first
        while (left := end - time.monotonic()) > 0:
            yield min(random.uniform(0, bound), left)
            bound = min(2 * bound, self.longest)


# For the first request, because a wrong address should be reported soon; our choice (not measured).
_BACKOFF = Backoff(patience=5.0)


class RequestRefusedError(ImpactIndexError):
    """The cluster answered with an error status.

    Attributes:
        status: HTTP status.
        kind: The server's name of the error.
        reason: The server's explanation.
    """

    def __init__(self, message: str, status: int, kind: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.reason = reason


def _check_settings(timeout: Any, auth: Any) -> None:
    if not (isinstance(timeout, Real) and float(timeout) > 0):
        raise ValueError(f"timeout must be a number of seconds above 0, found {timeout!r:.60}")
    if auth is not None and not (isinstance(auth, (tuple, list)) and len(auth) == 2):
        raise ValueError("auth must be a pair of user and password")


class Connection:
    """A cluster.

    Every request of this package may be sent again: documents are stored under their docnos, settings are set to values.
    Threads may share a connection. A pickle contains the URL, the certificates' path, and user and password, with which a
    worker process connects; a connection with a given client cannot be pickled.

    Attributes:
        name: Name in error messages: the cluster's URL without user and password.
    """

    def __init__(
        self, server: Any, *, auth: tuple[str, str] | None = None, ca_certs: str | None = None, timeout: float = 60.0
    ) -> None:
        """Name a cluster; nothing is sent yet. :class:`OpenSearchIndex` explains the arguments.

        Raises:
            ValueError: The URL is malformed, or a client is given together with settings that belong to the client.
        """
        self._secrets: tuple[str, ...] = ()
        self._checked = False
        self._timeout = timeout
        _check_settings(timeout, auth)
        if ca_certs is not None and not Path(ca_certs).is_file():
            raise ValueError(f"ca_certs: there is no file {ca_certs}")
        if isinstance(server, str):
            self.name, auth = _split_url(server, auth)
            self._secrets = tuple(secret for secret in (auth or ())[1:] if secret)
            self._client: Any = None
            self._settings: dict[str, Any] | None = {"http_auth": auth, "ca_certs": ca_certs}
            return
        if auth is not None or ca_certs is not None:
            raise ValueError("a client has its own auth and ca_certs: give a URL, or configure them in the client")
        send = getattr(getattr(server, "transport", None), "perform_request", None)
        if send is None or inspect.iscoroutinefunction(send):
            raise ValueError(f"expected the URL of a cluster or a (synchronous) client of opensearch-py, found {server!r}")
        self.name = ",".join(f"{host.get('host')}:{host.get('port', 9200)}" for host in server.transport.hosts)
        self._client = server
        self._settings = None

    def __getstate__(self) -> dict[str, Any]:
        if self._settings is None:
            raise TypeError(f"the client of {self.name} cannot be pickled: give OpenSearchIndex the URL, auth and ca_certs")
        return {**self.__dict__, "_client": None, "_checked": False}

    def __deepcopy__(self, memo: dict[int, Any]) -> Connection:
        return self  # clients cannot be copied, but can be shared

    def __call__(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        pauses: Iterator[float],
        params: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Any]:
        """Send a request until it is answered.

        Args:
            method: HTTP method.
            path: Quoted path.
            body: JSON, or lines of JSON.
            pauses: Seconds to wait before each further attempt after a broken connection, a time-out or a status in
                ``RETRIED``, as :meth:`Backoff.pauses` yields them. Requests with the same pauses share their patience.
            params: Parameters of the URL.
            stop: No further attempt is made once this is set.

        Raises:
            RequestRefusedError: The last answer had an error status.
            ImpactIndexError: There was no answer, or not an answer of OpenSearch.
        """
        errors = _opensearchpy().exceptions
        stop = stop or threading.Event()
        while True:
            try:
                answer = self._send(method, path, body, params)
                if not isinstance(answer, dict):
                    raise self.strange_answer(answer)
                return answer
            except errors.TransportError as error:
                failure, again = self._translate(error)
            except errors.OpenSearchException as error:
                raise self.strange_answer(error) from None
            if not again or (pause := next(pauses, None)) is None or stop.wait(pause):
                raise failure from None  # the client's own error would show headers and server traces

    def check(self) -> None:
        """Raise ImpactIndexError if the server is not reached, is not OpenSearch, or is too old."""
        if self._checked:
            return
        version = part(self("GET", "/", pauses=_BACKOFF.pauses()), "version")
        product, number = version.get("distribution", "elasticsearch"), str(version.get("number", "0.0"))
        parts = re.match(r"(\d+)(?:\.(\d+))?", number, re.ASCII)  # development versions have a suffix
        if product != "opensearch" or parts is None or tuple(int(part or 0) for part in parts.groups()) < _OLDEST:
            needed = ".".join(map(str, _OLDEST))
            raise ImpactIndexError(f"{self.name} is {product} {number}: impacts need OpenSearch {needed} or newer")
        self._checked = True

    def objects(self, answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        """Return the list of JSON objects with a name in an answer.

        Raises:
            ImpactIndexError: The answer has no such list.
        """
        found = answer.get(name)
        if not isinstance(found, list) or not all(isinstance(value, dict) for value in found):
            raise self.strange_answer(answer)
        return found

    def strange_answer(self, answer: Any) -> ImpactIndexError:
        """Return the error for an answer that OpenSearch does not give."""
        return ImpactIndexError(f"{self.name} does not answer as OpenSearch: {self.redact(str(answer))[:500]}")

    def redact(self, text: str) -> str:
        """Return a text without passwords."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _send(self, method: str, path: str, body: Any, params: Mapping[str, str] | None) -> Any:
        if self._client is None:
            # No retries by the client, which does not pause between attempts. pool_maxsize is our choice (not measured).
            self._client = _opensearchpy().OpenSearch(
                [self.name], **(self._settings or {}), verify_certs=True, timeout=self._timeout, max_retries=0, pool_maxsize=32
            )
        headers = {"content-type": "application/x-ndjson"} if isinstance(body, bytes) else None
        return self._client.transport.perform_request(method, path, params=dict(params or {}), body=body, headers=headers)

    def _translate(self, error: Any) -> tuple[ImpactIndexError, bool]:
        """Return the error to raise, and whether another attempt may help."""
        status = error.status_code
        if not isinstance(status, int):
            certificate = isinstance(error, _opensearchpy().exceptions.SSLError)
            remedy = "; set ca_certs if the system does not know the certificate's authority" if certificate else ""
            reason = self.redact(str(error.info or error.error))
            return ImpactIndexError(f"cannot reach {self.name}: {reason}{remedy}"), not certificate
        kind, reason = map(self.redact, explain(error.info) if error.info else (str(error.error), ""))
        if "block" in kind:  # also 403
            reason += ": is a disk of the cluster nearly full?"
        elif status in (401, 403):
            reason += ": does auth=(user, password) name a user with this permission?"
        message = f"{self.name} answered {status} {kind}{': ' if reason else ''}{reason}"
        return RequestRefusedError(message, status, kind, reason), status in RETRIED


def part(values: Any, name: str) -> Mapping[str, Any]:
    """Return an object inside a JSON object; an empty one if there is none."""
    found = values.get(name) if isinstance(values, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def explain(info: Any) -> tuple[str, str]:
    """Return the kind and reason of an error, from the innermost cause with a reason."""
    error = info.get("error", info) if isinstance(info, Mapping) else info
    if not isinstance(error, Mapping):
        return str(error)[:500], ""
    while True:
        inner: Any = error.get("caused_by") or next(iter(error.get("root_cause") or ()), None)
        if not isinstance(inner, Mapping) or not inner.get("reason"):
            return str(error.get("type", "error")), str(error.get("reason", ""))[:500]
        error = inner


def ndjson(values: Iterable[Mapping[str, Any]]) -> bytes:
    """Return lines of JSON in ASCII, so that no value contains a line break."""
    return "".join(json.dumps(value) + "\n" for value in values).encode("ascii")


def _split_url(url: str, auth: tuple[str, str] | None) -> tuple[str, tuple[str, str] | None]:
    """Return the URL without user and password, and these two."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the URL of the cluster has a malformed port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the URL of a cluster must have the form https://host:9200")
    if parts.username is not None:
        if auth is not None:
            raise ValueError("user and password are both in the URL and in auth: give them once")
        auth = unquote(parts.username), unquote(parts.password or "")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    # Without a port, the client would use 9200 for https, too.
    netloc = f"{host}:{port or (443 if parts.scheme == 'https' else 9200)}"
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", "")), auth


def _opensearchpy() -> Any:
    return require("opensearchpy", "opensearch", "OpenSearchIndex")
