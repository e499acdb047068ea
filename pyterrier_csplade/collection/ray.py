"""Encoding on a Ray cluster: Ray Data maintains a pool of workers, each with the model, and replaces lost workers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import CspladeError, DataError

from .documents import DocumentShard
from .encoding import Pending, ShardEncoder
from .recipe import Recipe
from .shard import EncodedShard, ShardRecord
from .store import Store

if TYPE_CHECKING:
    from pyterrier_csplade.vectors.vocabulary import Vocabulary

    from .encoding import Encoder


# The first release in which web pages and other machines on the network cannot run code (CVE-2025-62593, CVE-2026-27482).
_OLDEST = (2, 54)


class OnRay:
    """Encodes on the workers of a Ray cluster; only this process reads documents and writes shards.

    Every row that Ray moves is one shard with its number, so rows may return in any order. If a worker is lost, another one
    encodes its shard again.

    Attributes:
        workers: Number of processes that load the model and encode.
        gpus: Number of GPUs of each worker.
    """

    def __init__(self, workers: int, gpus: float) -> None:
        self.workers = workers
        self.gpus = gpus

    def describe(self, encoder: Encoder, shard_size: int) -> tuple[Recipe, Vocabulary]:
        """Load the model on a worker, whose device determines its dtype, and return the recipe and the index terms."""
        import ray

        task = ray.remote(_describe).options(num_gpus=self.gpus)
        described, error = ray.get(task.remote(encoder, shard_size))
        if error is not None:
            raise error
        return described

    def run(self, store: Store, pending: Pending, encode: ShardEncoder, advance: Callable[[int], Any]) -> None:
        """Encode pending shards and write them."""
        import ray.data

        rows = [ray.put(_to_table(shard)) for shard in pending]
        if not rows:
            return
        encoded = ray.data.from_arrow_refs(rows).map_batches(
            _Worker,
            fn_constructor_args=[encode],
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows))),
            num_gpus=self.gpus,
        )
        for row in encoded.iter_rows():
            if row["error"]:
                raise DataError(row["error"])
            record = ShardRecord(**json.loads(row["record"]))
            store.write(EncodedShard(row["content"], record))
            advance(record.documents)


@contextmanager
def cluster(address: str, workers: int | None) -> Iterator[OnRay]:
    """Join a Ray cluster, or start one.

    Args:
        address: "local" starts a cluster on this machine that nobody else can reach; "auto" joins the running one, and
            "host:port" the one at this address.
        workers: Number of processes that encode; one for each GPU by default.

    Raises:
        CspladeError: Ray is not installed or too old, there is no such cluster, or it has no GPU and ``workers`` is None.
    """
    ray = _import_ray(address)
    joined = ray.is_initialized()
    if not joined:
        _connect(ray, address)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if not (workers or gpus):
            raise CspladeError("the Ray cluster has no GPU: set the number of processes with --workers")
        yield OnRay(workers or gpus, 1 if gpus else 0)
    finally:
        if not joined:
            ray.shutdown()


def _import_ray(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        # Makes the servers of Ray listen to the loopback interface only.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray.data
    except ImportError as error:
        raise CspladeError('Ray is not installed: pip install "pyterrier-csplade[ray]"') from error
    if tuple(map(int, ray.__version__.split(".")[:2])) < _OLDEST:
        raise CspladeError(f"Ray {ray.__version__} has known security holes: pip install 'pyterrier-csplade[ray]'")
    return ray


def _connect(ray: Any, address: str) -> None:
    dashboard = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="error", **dashboard)
    except (ConnectionError, ValueError) as error:
        raise CspladeError(f"there is no Ray cluster at {address!r}: {error}") from error
    if address == "local" and {node["NodeManagerAddress"] for node in ray.nodes()} != {"127.0.0.1"}:
        ray.shutdown()
        raise CspladeError("Ray was imported before and would listen on the network: start the encoding in a new process")


def _describe(encoder: Encoder, shard_size: int) -> tuple[Any, CspladeError | None]:
    try:
        return (Recipe.of(encoder, shard_size), encoder.model.vocabulary), None
    except CspladeError as error:
        return None, error


def _to_table(shard: DocumentShard) -> Any:
    import pyarrow

    # As JSON, because the strings of an Arrow column are limited to 2 GiB.
    documents = json.dumps([list(shard.docnos), list(shard.texts)]).encode()
    return pyarrow.table({"shard": [shard.number], "documents": [documents]})


class _Worker:
    """Runs on a worker; loads the model with its first shard and keeps it."""

    def __init__(self, encode: ShardEncoder) -> None:
        self._encode = encode

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        (row,) = batch.to_pylist()
        docnos, texts = json.loads(row["documents"])
        content, record, error = b"", b"", ""
        try:
            (encoded,) = self._encode([DocumentShard(row["shard"], docnos, texts)])
            content, record = encoded.content, encoded.record.to_json()
        except CspladeError as caught:  # not raised here, where Ray would wrap it
            error = str(caught)
        return pyarrow.table({"content": [content], "record": [record], "error": [error]})
