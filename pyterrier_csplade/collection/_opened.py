"""A complete collection, opened to be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import CollectionError
from pyterrier_csplade._manifest import HASHED_ON_OPENING

from ._files import sha256
from ._plan import PLAN_FILE, Plan, load_terms
from ._shard import REMEDY, ShardFile, shard_name
from ._store import MANIFEST_FILE

_TOTALS = ("documents", "empty", "truncated", "postings")


class OpenCollection:
    """The shards of a complete collection whose files are as they were written: sizes always, digests up to 256 MiB.

    Attributes:
        plan: By which it was encoded.
        vocabulary: The index terms.
        totals: Documents, empty and truncated ones, postings.
    """

    def __init__(self, directory: Path, *, digests: bool | None = None) -> None:
        """Open a collection.

        Args:
            directory: Of the collection.
            digests: Whether to compare all digests; None compares them up to 256 MiB.

        Raises:
            CollectionError: There is no collection, it is not complete, or files are damaged; names them.
        """
        manifest = _read_manifest(directory)
        files = manifest["files"]
        if digests is None:
            digests = sum(entry["bytes"] for entry in files.values()) <= HASHED_ON_OPENING
        problems = [problem for name, entry in files.items() if (problem := _problem(directory / name, entry, digests))]
        if problems:
            raise CollectionError(f"{directory} is damaged: {'; '.join(problems)}: {REMEDY}")
        self.totals: dict[str, int] = {name: manifest[name] for name in _TOTALS}
        self.plan = Plan.load(directory)
        self.vocabulary = load_terms(directory, self.plan)
        self._directory = directory
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
        """Open a shard."""
        if number not in self._shards:
            path = self._directory / shard_name(number)
            self._shards[number] = ShardFile(path, len(self.vocabulary))
        return self._shards[number]


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_FILE
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != 1:
            raise CollectionError(f"{path} is of a newer format: update pyterrier_csplade")
        # A name with a directory would leave the collection.
        if not all(
            Path(name).name == name and {"bytes", "sha256"} <= entry.keys() for name, entry in manifest["files"].items()
        ):
            raise ValueError("an entry is not a file with size and digest")
        if not all(type(manifest[name]) is int for name in _TOTALS):
            raise ValueError("a total is no integer")
    except FileNotFoundError as error:
        raise CollectionError(_missing(directory)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CollectionError(f"{path} is damaged ({error}): {REMEDY}") from error
    return manifest


def _missing(directory: Path) -> str:
    if not (directory / PLAN_FILE).exists():
        return f"no encoded collection at {directory}: make it with pyterrier-csplade encode, or EncodedCollection.encode"
    finished = len(list(directory.glob("shard-*.json")))
    return f"{directory} is not complete, {finished} of its shards are there: {REMEDY}"


def _problem(path: Path, entry: dict[str, Any], digest: bool) -> str:
    if not path.exists():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path.name} has {size:,} bytes, not {entry['bytes']:,}"
    return f"{path.name} has changed since it was written" if digest and sha256(path) != entry["sha256"] else ""
