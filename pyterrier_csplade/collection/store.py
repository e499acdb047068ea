"""Writing the directory of an encoded collection."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import CollectionError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.storage.files import LockedError, locked, sha256, write_atomically
from pyterrier_csplade.storage.manifest import describe, write_manifest
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .documents import DocumentShard, Part
from .recipe import META_FILE, PLAN_FILE, TERMS_FILE, Recipe, terms_to_json
from .shard import TOTALS, EncodedShard, ShardRecord, record_name, shard_name

#: Written last: a directory that contains it is a complete collection.
MANIFEST_FILE = "manifest.json"

# The lock of part i of n is named ".writer-i-of-n".
_LOCK = ".writer-"

_METADATA = {"type": "sparse_vectors", "format": "csplade", "package_hint": "pyterrier-csplade"}


class Store:
    """Writes shards, each whole or not at all, and finds out which are yet to be encoded.

    Attributes:
        directory: The directory of the collection.
        recipe: The recipe of the run.
    """

    def __init__(self, directory: Path, recipe: Recipe, vocabulary: Vocabulary) -> None:
        """Begin a collection, or resume one.

        Raises:
            CollectionError: The directory contains something else, or a collection of another recipe.
            OSError: The directory cannot be written.
        """
        self.directory = directory
        self.recipe = recipe
        check_place(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            if (directory / PLAN_FILE).exists():
                self._check_recipe()
                return
            write_atomically(directory / META_FILE, (json.dumps(_METADATA, indent=2) + "\n").encode())
            write_atomically(directory / TERMS_FILE, terms_to_json(vocabulary))
            write_atomically(directory / PLAN_FILE, recipe.to_json())

    @property
    def finished(self) -> list[int]:
        """Numbers of the finished shards."""
        names = (re.fullmatch(r"shard-(\d{6,})\.json", path.name) for path in self.directory.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def wants(self, shard: DocumentShard, part: Part) -> bool:
        """Return whether a part has yet to encode a shard.

        Raises:
            CollectionError: The shard is finished, but with other documents or another recipe.
        """
        record = self.record(shard.number)
        if record is None:
            return shard.number in part
        if (record.input_sha256, record.documents) != (shard.sha256, len(shard.docnos)):
            raise CollectionError(
                f"the documents from {shard.docnos[0]!r} to {shard.docnos[-1]!r} are not those of shard {shard.number} in "
                f"{self.directory}: the input has changed; encode it into another directory"
            )
        if shard.number not in part or self._is_whole(shard.number, record):
            return False
        warn(f"shard {shard.number} in {self.directory} is damaged and will be encoded again")
        (self.directory / record_name(shard.number)).unlink()
        return True

    def record(self, number: int) -> ShardRecord | None:
        """Read the record of a shard; None while the shard is not finished.

        Raises:
            CollectionError: The shard has another recipe.
        """
        record = ShardRecord.load(self.directory / record_name(number))
        if record is not None and record.plan != self.recipe.fingerprint:
            raise CollectionError(
                f"shard {number} in {self.directory} was encoded with other settings: files of different collections were mixed"
            )
        return record

    def records(self, numbers: Iterable[int]) -> list[ShardRecord]:
        """Read the records of the finished shards among the given numbers."""
        return [record for record in map(self.record, numbers) if record is not None]

    def write(self, shard: EncodedShard) -> None:
        """Write a shard: first the vectors, then the record, which marks the shard as finished.

        Raises:
            OSError: The disk is full or cannot be written; earlier shards stay whole.
        """
        write_atomically(self.directory / shard_name(shard.record.shard), shard.content)
        write_atomically(self.directory / record_name(shard.record.shard), shard.record.to_json())

    def finish(self, shards: int) -> bool:
        """Write the manifest if all ``shards`` of the input are finished; return whether the collection is complete.

        Raises:
            CollectionError: There are shards beyond the end of the input.
        """
        with _alone(self.directory):
            if beyond := [number for number in self.finished if number >= shards]:
                raise CollectionError(
                    f"{self.directory} contains shard {beyond[0]}, but the input has only {shards}: the input has changed; "
                    "encode it into another directory"
                )
            records = self.records(range(shards))
            if len(records) < shards:
                return False
            for leftover in self.directory.glob(".*.tmp"):
                leftover.unlink()
            write_manifest(self.directory, MANIFEST_FILE, files=dict(self._files(records)), **add_up(records))
        return True

    def _check_recipe(self) -> None:
        if differences := self.recipe.differences(Recipe.load(self.directory)):
            raise CollectionError(
                f"{self.directory} was encoded with other settings: {differences}; use the same settings, or another directory"
            )

    def _is_whole(self, number: int, record: ShardRecord) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return sha256(self.directory / shard_name(number)) == record.sha256
        return False

    def _files(self, records: list[ShardRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
        digests = {shard_name(record.shard): record.sha256 for record in records}
        others = (record_name(record.shard) for record in records)
        for name in sorted([META_FILE, TERMS_FILE, PLAN_FILE, *digests, *others]):
            yield name, describe(self.directory / name, digests.get(name))


def add_up(records: Iterable[ShardRecord]) -> dict[str, int]:
    """Add up the counts of shards."""
    records = list(records)
    return {name: sum(getattr(record, name) for record in records) for name in TOTALS}


def check_place(directory: Path) -> None:
    """Refuse a path with anything but an encoded collection.

    Raises:
        CollectionError: The path is a file, or a directory with other files.
    """
    if not directory.exists():
        return
    names = {path.name for path in directory.iterdir() if path.name[0] != "."} if directory.is_dir() else {""}
    if PLAN_FILE not in names and not names <= {META_FILE, TERMS_FILE}:
        raise CollectionError(f"{directory} exists and is not an encoded collection: choose another path, or remove it")


@contextlib.contextmanager
def writing(directory: Path, part: Part) -> Iterator[None]:
    """Prevent other processes from writing the same part of a collection.

    Raises:
        CollectionError: Another process is writing shards of this part; the message names it.
    """
    with contextlib.ExitStack() as lock:
        try:
            with _alone(directory):
                for other in directory.glob(f"{_LOCK}*-of-*"):
                    _check_free(other, part)
                lock.enter_context(locked(directory / f"{_LOCK}{part.index}-of-{part.count}", wait=False))
        except LockedError as error:
            raise CollectionError(f"{directory} is being written by process {error}: wait until it has ended") from error
        yield


def _alone(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Keep out all other writers of a collection, whatever their part."""
    return locked(directory / f"{_LOCK}all")


def _check_free(path: Path, part: Part) -> None:
    numbers = re.fullmatch(r"(\d+)-of-(\d+)", path.name.removeprefix(_LOCK))
    if numbers is None or not part.overlaps(Part(int(numbers[1]), int(numbers[2]))):
        return
    with locked(path, wait=False):  # removes the file of a killed process
        pass
