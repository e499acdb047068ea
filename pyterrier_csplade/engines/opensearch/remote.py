"""An index on its cluster: created, loaded and completed, and opened only when it is complete."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import pyterrier as pt

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade._settings import Settings

from .connection import RETRIED, Backoff, Connection, RequestRefusedError, ndjson, part
from .mapping import Fields, Metadata, TermNames

# For opening and searching, which should fail sooner than a load; our choice (not measured).
_BACKOFF = Backoff(patience=30.0)
_LOAD_BACKOFF = Backoff()

# Maximum number of attempts to search an index that is being replaced; our choice (not measured).
_READS = 3

T = TypeVar("T")

_LOADING = {"refresh_interval": "-1", "number_of_replicas": 0}


class RemoteIndex:
    """An index of a cluster, which need not exist yet.

    Attributes:
        connection: The cluster.
        name: The index, or an alias of one or more indexes.
        names: Names of its terms.
    """

    def __init__(self, connection: Connection, name: str, names: TermNames) -> None:
        self.connection = connection
        self.name = name
        self.names = names
        self._path = f"/{quote(name, safe='')}"

    def __str__(self) -> str:
        return f"{self.name!r} at {self.connection.name}"

    def find(self) -> Metadata | None:
        """Return the metadata of the index; None if there is no index.

        Raises:
            ImpactIndexError: It is not an index of this package, or its name is an alias of several.
        """
        found = self._find_all()
        if len(found) > 1:
            raise ImpactIndexError(f"{self} is an alias of {len(found)} indexes, which can only be searched: name one of them")
        return next(iter(found.values()), None)

    def open(self) -> Metadata:
        """Return the metadata of a complete index, or of several indexes that an alias joins.

        Raises:
            ImpactIndexError: There is no index, an index is incomplete or names terms differently, or scores cannot be
                compared.
        """
        return self._join(self._find_all())

    def read(self, search: Callable[[Metadata], T]) -> T:
        """Return the result of searches in one version of the index.

        If the index is built again meanwhile, or its alias is switched, the searches are repeated.

        Args:
            search: Searches, given the metadata of :meth:`open`.

        Raises:
            ImpactIndexError: As :meth:`open`; or the index is replaced again and again.
        """
        before = self._find_all()
        for _ in range(_READS):
            result = search(self._join(before))
            after = self._find_all()
            if after == before:
                return result
            before = after
        raise ImpactIndexError(f"{self} was replaced {_READS} times while it was searched: search again")

    def _join(self, found: Mapping[str, Metadata]) -> Metadata:
        if not found:
            raise ImpactIndexError(f"there is no index {self}: build it with (csplade.doc_encoder() >> index).index(...)")
        for name, metadata in found.items():
            if not metadata.complete:
                raise ImpactIndexError(
                    f"the load of {name!r} at {self.connection.name} is running or was interrupted: run the same indexing "
                    "again to complete it"
                )
            if metadata.names != self.names.scheme:
                strings = metadata.names["terms"] == "strings"
                raise ImpactIndexError(
                    f"{self} names terms by {metadata.names['terms']} of its own vocabulary: open it "
                    + ("without vocabulary" if strings else "with vocabulary=csplade.vocabulary, of the model that encoded it")
                )
        return Metadata.join(found, str(self))

    def begin(self, wanted: Metadata, fields: Fields, *, shards: int, overwrite: bool) -> None:
        """Create the index, or continue an index whose load was interrupted, and prepare it for a load.

        Raises:
            ContractError: The index was begun with another encoder.
            ImpactIndexError: There is a complete index, or an index that was begun with other settings.
        """
        if overwrite:
            self._delete()
        found = self.find()
        if found is None and (found := self._create(wanted, fields, shards)) is None:
            return
        self.refuse_complete(found)
        found.check_same_build(wanted, str(self))
        self._check_fields(fields)
        self._request("PUT", "/_settings", {"index": _LOADING})

    def refuse_complete(self, metadata: Metadata | None) -> None:
        """Raise ImpactIndexError if the metadata belong to a complete index."""
        if metadata is not None and metadata.complete:
            raise ImpactIndexError(f"there is an index {self}: use toks_indexer(overwrite=True) to replace it")

    def finish(self, metadata: Metadata, replicas: int) -> None:
        """Restore refreshes, set the number of replicas, and mark the index complete."""
        self._settle(replicas, _LOAD_BACKOFF.pauses())
        self._request("PUT", "/_mapping", {"_meta": metadata.to_dict()}, pauses=_LOAD_BACKOFF.pauses())

    def give_up(self, replicas: int) -> None:
        """Restore refreshes and set the number of replicas, with one attempt and without an error: the cluster may be gone."""
        with contextlib.suppress(ImpactIndexError):
            self._settle(replicas, iter(()))

    def refresh(self) -> None:
        """Make the loaded documents visible on every shard."""
        self._check_shards(self._request("POST", "/_refresh", pauses=_LOAD_BACKOFF.pauses()))

    def count(self) -> int:
        """Return the number of documents on all shards."""
        answer = self._request("GET", "/_count", pauses=_LOAD_BACKOFF.pauses())
        self._check_shards(answer)
        if not isinstance(count := answer.get("count"), int):
            raise self.connection.strange_answer(answer)
        return count

    def search(self, bodies: Sequence[Mapping[str, Any]], **header: str) -> list[dict[str, Any]]:
        """Send searches with a common header in one request; return an answer for each, with ``hits`` or with ``error``."""
        # Without this setting, a failing shard would silently reduce the results.
        body = ndjson(line for body in bodies for line in ({"allow_partial_search_results": False}, body))
        parts = "hits.hits.sort,hits.hits._source,error,status,timed_out"
        params = {"filter_path": ",".join(f"responses.{part}" for part in parts.split(",")), **header}
        pauses = _BACKOFF.pauses()
        while True:
            answer = self._request("POST", "/_msearch", body, params=params, pauses=pauses)
            answers = self.connection.objects(answer, "responses")
            busy = any(answer.get("status") in RETRIED for answer in answers)
            if not busy or (pause := next(pauses, None)) is None:
                break
            time.sleep(pause)
        if len(answers) != len(bodies) or any(answer.get("timed_out") for answer in answers):
            raise ImpactIndexError(f"{self} answered only some of the queries: try again")
        return answers

    def allow_query_terms(self, terms: int) -> None:
        """Set the cluster's maximum number of clauses in a query."""
        settings = {"persistent": {"indices.query.bool.max_clause_count": terms}}
        self.connection("PUT", "/_cluster/settings", settings, pauses=_BACKOFF.pauses())

    def _find_all(self) -> dict[str, Metadata]:
        self.connection.check()
        # With ignore_unavailable, a missing index is not a 404, which the client would log as a warning.
        answer = self._request("GET", "/_mapping", params={"ignore_unavailable": "true"})
        if not all(isinstance(values, dict) and isinstance(values.get("mappings"), dict) for values in answer.values()):
            raise self.connection.strange_answer(answer)
        return {
            name: Metadata.from_mapping(values["mappings"], f"{name!r} at {self.connection.name}")
            for name, values in sorted(answer.items())
        }

    def _request(
        self, method: str, path: str, body: Any = None, *, pauses: Iterator[float] | None = None, **options: Any
    ) -> dict[str, Any]:
        return self.connection(method, self._path + path, body, pauses=pauses or _BACKOFF.pauses(), **options)

    def _create(self, metadata: Metadata, fields: Fields, shards: int) -> Metadata | None:
        """Create the index; return its metadata if it exists already."""
        body = {
            "settings": {"index": {"number_of_shards": shards, **_LOADING}},
            "mappings": {
                "_meta": metadata.to_dict(),
                "dynamic": "strict",
                # Impacts are searched but never read, and take less than half the space if they are not stored in the source.
                "_source": {"excludes": ["impacts"]},
                "properties": fields.properties,
            },
        }
        try:
            self._request("PUT", "", body)
        except RequestRefusedError as refused:
            if "rank_features" in refused.reason:
                raise ImpactIndexError(
                    f"{self.connection.name} has no fields of type rank_features: install its module mapper-extras"
                ) from None
            if refused.kind == "resource_already_exists_exception":
                return self.find()  # created by an earlier attempt, whose answer was lost, or by another process
            raise
        return None

    def _check_fields(self, fields: Fields) -> None:
        (values,) = self._request("GET", "/_mapping").values()
        found, wanted = values["mappings"]["properties"], fields.properties
        for name in sorted(found.keys() | wanted.keys()):
            # The server drops the default analyzer from a mapping.
            one, other = ({"analyzer": "default", **given} for given in (found.get(name, {}), wanted.get(name, {})))
            if one != other:
                raise ImpactIndexError(
                    f"{self} was begun with another field {name!r}: give the same fields, or start again with overwrite=True"
                )

    def _delete(self) -> None:
        try:
            self._request("DELETE", "")
        except RequestRefusedError as refused:
            if refused.status != 404:
                raise

    def _settle(self, replicas: int, pauses: Iterator[float]) -> None:
        settings = {"refresh_interval": None, "number_of_replicas": replicas}
        self._request("PUT", "/_settings", {"index": settings}, pauses=pauses)

    def _check_shards(self, answer: Mapping[str, Any]) -> None:
        failed = part(answer, "_shards").get("failed", 0)
        if failed:
            raise ImpactIndexError(f"{failed} shards of {self} did not answer: is a node down?")


class ClusterIndex(Settings, pt.Indexer):
    """Base class of :class:`OpenSearchIndex`, with everything that its retrievers, scorer and indexer use.

    Attributes:
        remote: The index.
    """

    def __init__(self, remote: RemoteIndex) -> None:
        super().__init__()
        self.remote = remote

    def _belongs_to(self) -> tuple[str, ...]:
        return (self.remote.connection.name, self.remote.name, *self.remote.names.scheme.values())

    def _defaults(self) -> dict[str, Any]:
        return {}  # indexes with other credentials or time-outs are equal

    def __str__(self) -> str:
        return self._named(self.remote.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.remote.connection.name!r}, {self.remote.name!r})"
