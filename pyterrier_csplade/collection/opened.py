"""A complete collection, opened to be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_csplade._errors import CollectionError
from pyterrier_csplade.storage import manifest as manifests
from pyterrier_csplade.storage.docnos import Docnos
from pyterrier_csplade.storage.manifest import damages, read_manifest

from .recipe import PLAN_FILE, Recipe, load_terms
from .shard import REMEDY, TOTALS, ShardFile, shard_name
from .store import MANIFEST_FILE

_REOPEN = "close() the collection and read it again"


class OpenCollection:
    """The shards of a complete collection, as they were when it was opened.

    Attributes:
        directory: The directory of the collection.
        recipe: The recipe of the collection.
        vocabulary: The index terms.
        totals: Numbers of documents, of empty and truncated documents, and of postings.
    """

    def __init__(self, directory: Path, *, digests: bool | None = None) -> None:
        """Open a collection, and compare its files with the manifest; see :func:`.damages` for ``digests``.

        Raises:
            CollectionError: There is no collection, it is incomplete, files are damaged (the message names them), or another
                process is replacing it.
        """
        self.directory = directory
        self._place = directory = directory.resolve()  # only once, because a link may change
        manifest = _read_manifest(directory)
        files = manifest["files"]
        self._identities = {name: _identity(directory / name) for name in files}
        if found := list(damages(directory, files, digests=digests)):
            raise CollectionError(f"{directory} is damaged: {'; '.join(found)}: {REMEDY}")
        self.totals: dict[str, int] = {name: manifest[name] for name in TOTALS}
        self.recipe = Recipe.load(directory)
        self.vocabulary = load_terms(directory, self.recipe)
        if _read_manifest(directory) != manifest or any(_identity(directory / n) != i for n, i in self._identities.items()):
            raise CollectionError(f"{directory} was replaced while it was opened: {_REOPEN}")
        self._hashed = sum(entry["bytes"] for entry in files.values()) <= manifests.HASHED_ON_OPENING
        self._digests = {name: entry["sha256"] for name, entry in files.items()}
        self._shards: dict[int, ShardFile] = {}
        self._count = sum(name.endswith(".safetensors") for name in files)
        if not all(shard_name(number) in files for number in range(self._count)):
            raise CollectionError(f"{directory / MANIFEST_FILE} is damaged (a shard is missing): {REMEDY}")

    def __len__(self) -> int:
        """Count the shards."""
        return self._count

    def __iter__(self) -> Iterator[ShardFile]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> ShardFile:
        """Open a shard.

        Raises:
            CollectionError: The shard is missing, damaged, or was replaced after the collection had been opened.
        """
        if number not in self._shards:
            name = shard_name(number)
            path = self._place / name
            shard = ShardFile(path, len(self.vocabulary))
            # A copy of the same content is the same shard. In a large collection, computing digests would take too long.
            same = not self._hashed and _identity(path) == self._identities[name]
            if not same and hashlib.sha256(shard.content.data).hexdigest() != self._digests[name]:
                raise CollectionError(f"{path} was replaced after the collection had been opened: {_REOPEN}")
            self._shards[number] = shard
        return self._shards[number]


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    """Return what identifies a file, or None if there is none, also because a damaged manifest has an impossible name."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_FILE
    try:
        manifest = read_manifest(path, CollectionError, REMEDY)
    except FileNotFoundError as error:
        raise CollectionError(_missing(directory)) from error
    for name in TOTALS:
        if type(manifest.get(name)) is not int:
            raise CollectionError(f"{path} is damaged (its number of {name} is not an integer): {REMEDY}")
    return manifest


def _missing(directory: Path) -> str:
    if not (directory / PLAN_FILE).exists():
        return f"no encoded collection at {directory}: make it with pyterrier-csplade encode, or EncodedCollection.encode"
    finished = len(list(directory.glob("shard-*.json")))
    return f"{directory} is not complete (shards finished: {finished}): {REMEDY}"


def verify(directory: Path) -> OpenCollection:
    """Compare all files of a collection with the manifest, check its docnos and vectors, and return the collection.

    Raises:
        CollectionError: There is no collection, it is incomplete, or files are damaged; the message names them.
    """
    collection = OpenCollection(directory, digests=True)
    docnos, postings = Docnos(), 0
    for shard in collection:
        docnos.add(shard.docnos)
        postings += check_vectors(shard)
    if postings != collection.totals["postings"]:
        raise CollectionError(f"{directory} contains {postings:,} postings, not {collection.totals['postings']:,}: {REMEDY}")
    return collection


def check_vectors(shard: ShardFile) -> int:
    """Check that the vectors of a shard can be indexed; return the number of postings.

    Raises:
        CollectionError: A weight is not above 0 and finite, or the terms of a document are not in ascending order.
    """
    matrix = shard.rows(0, len(shard))
    if not (np.all(matrix.data > 0) and np.all(np.isfinite(matrix.data))):
        raise CollectionError(f"{shard.path} contains a weight that is not above 0 and finite: {REMEDY}")
    if not matrix.has_canonical_format:
        raise CollectionError(f"{shard.path} contains a term twice in one document, or terms out of order: {REMEDY}")
    return int(matrix.nnz)


class Lookup:
    """Finds documents by docno, exactly, with 16 bytes of memory for each document."""

    def __init__(self, shards: OpenCollection) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)])
        hashes = np.concatenate([_hash(shard.docnos) for shard in shards] or [np.empty(0, np.uint64)])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, docnos: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return shard and row of each docno; None for docnos that are not in the collection."""
        hashes = _hash(docnos)
        first = np.searchsorted(self._hashes, hashes, side="left").tolist()
        last = np.searchsorted(self._hashes, hashes, side="right").tolist()
        return [self._among(docno, start, end) for docno, start, end in zip(docnos, first, last)]

    def _among(self, docno: str, start: int, end: int) -> tuple[int, int] | None:
        for position in self._order[start:end].tolist():
            shard = int(np.searchsorted(self._starts, position, side="right")) - 1
            row = position - int(self._starts[shard])
            if self._shards[shard].docno(row) == docno:
                return shard, row
        return None


def _hash(docnos: Sequence[str]) -> np.ndarray:
    return pd.util.hash_array(np.array(docnos, dtype=object), categorize=False)
