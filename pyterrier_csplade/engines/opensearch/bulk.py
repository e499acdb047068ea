"""Bulk requests in parallel; each item's result is checked, and items are sent again if the server was too busy."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import zip_longest
from typing import Any
from urllib.parse import quote

from pyterrier_csplade._errors import DataError, ImpactIndexError

from .connection import RETRIED, Backoff, Connection, explain, part
from .records import Record

# Maximum number of documents in a request; our choice (not measured).
_MAX_RECORDS = 2000

_PARAMS = {"filter_path": "errors,items.index._id,items.index.status,items.index.error"}


class BulkLoader:
    """Sends records to an index.

    At most ``parallel`` requests are in flight and one waits; the input is not read further until there is room. Memory is
    therefore bounded by ``(parallel + 1) * request_bytes``, and a slow cluster slows down the encoder.
    """

    # opensearch-py's parallel_bulk never retries; its streaming_bulk sends one request after another and retries only status
    # 429. Both assume that a document missing at the end of an answer was stored, and do not compare ids.

    def __init__(self, connection: Connection, index: str, *, parallel: int, request_bytes: int) -> None:
        """Prepare to send requests to an existing index; a document larger than ``request_bytes`` is sent alone."""
        self._connection = connection
        self._path = f"/{quote(index, safe='')}/_bulk"
        self._parallel = parallel
        self._request_bytes = request_bytes
        self._stop = threading.Event()

    def load(self, records: Iterable[Record]) -> None:
        """Send all records.

        Raises:
            DataError: The server refused a document; the message names the document and the reason.
            ImpactIndexError: The server did not answer, or was too busy, for longer than the patience.
        """
        under_way: set[Future[None]] = set()
        with ThreadPoolExecutor(self._parallel) as executor:
            try:
                for request in self._requests(records):
                    under_way.add(executor.submit(self._send, request))
                    if len(under_way) > self._parallel:
                        under_way = _wait_for_one(under_way)
                while under_way:
                    under_way = _wait_for_one(under_way)
            except BaseException:
                self._stop.set()  # ends the pauses of the other requests
                for future in under_way:
                    future.cancel()
                raise

    def _requests(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        request: list[Record] = []
        size = 0
        for record in records:
            if request and (size + len(record.lines) > self._request_bytes or len(request) == _MAX_RECORDS):
                yield request
                request, size = [], 0
            request.append(record)
            size += len(record.lines)
        if request:
            yield request

    def _send(self, request: list[Record]) -> None:
        pauses = Backoff().pauses()
        while True:
            body = b"".join(record.lines for record in request)
            answer = self._connection("POST", self._path, body, pauses=pauses, params=_PARAMS, stop=self._stop)
            request, reason = self._unfinished(request, answer)
            if not request:
                return
            if (pause := next(pauses, None)) is None or self._stop.wait(pause):
                raise ImpactIndexError(
                    f"{self._connection.name} did not accept {len(request):,} documents, starting with {request[0].docno!r}: "
                    f"{reason}; run the same indexing again to complete it"
                )

    def _unfinished(self, request: list[Record], answer: dict[str, Any]) -> tuple[list[Record], str]:
        """Return the records to send again, and why the server did not accept the first of them."""
        items = [part(item, "index") for item in self._connection.objects(answer, "items")]
        unfinished: list[Record] = []
        first_reason = ""
        for record, item in zip_longest(request, items):
            if record is None or (item is not None and item.get("_id") != record.docno):
                raise ImpactIndexError(f"{self._connection.name} answered about documents that are not in the request")
            status = 0 if item is None else item.get("status", 0)
            if status in (200, 201):
                continue
            kind, reason = explain(item) if item else ("no result", "the answer is incomplete")
            reason = f"{status} {self._connection.redact(f'{kind}: {reason}')}"
            if item is not None and status not in RETRIED:
                raise DataError(f"document {record.docno!r} was refused by {self._connection.name}: {reason}")
            unfinished.append(record)
            first_reason = first_reason or reason
        return unfinished, first_reason


def _wait_for_one(under_way: set[Future[None]]) -> set[Future[None]]:
    """Wait until a request is done; return the others."""
    done, others = wait(under_way, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return others
