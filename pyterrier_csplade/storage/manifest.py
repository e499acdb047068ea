"""Manifests: the size and SHA-256 of each file in a directory. A manifest is the last file to be written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pyterrier_csplade._errors import CspladeError, ImpactIndexError

from .files import read_json, sha256, sync, write_atomically

T = TypeVar("T")

#: The manifest of an index.
MANIFEST_FILE = "csplade_manifest.json"

#: Maximum size of a directory in bytes for which opening compares digests, and not only sizes; our choice (measured: half a
#: second).
HASHED_ON_OPENING = 256 * 2**20

Files = Mapping[str, Mapping[str, Any]]


def write_manifest(directory: Path, name: str = MANIFEST_FILE, *, files: Files | None = None, **values: object) -> None:
    """Write the manifest of a directory, with ``values`` as further content.

    ``files`` are the size ("bytes") and "sha256" of each file by name; None flushes all files to the disk and describes them.
    """
    if files is None:
        paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / name)
        for path in paths:
            sync(path)
        files = {path.relative_to(directory).as_posix(): describe(path) for path in paths}
    content = json.dumps({"format": 1, **values, "files": files}, indent=2) + "\n"
    write_atomically(directory / name, content.encode())


def describe(path: Path, digest: str | None = None) -> dict[str, Any]:
    """Return the entry of a file; the digest is computed unless it is given."""
    return {"bytes": path.stat().st_size, "sha256": digest or sha256(path)}


def read_manifest(path: Path, error: type[CspladeError], remedy: str) -> dict[str, Any]:
    """Read a manifest; if it is unusable, raise ``error`` with a message that ends in ``remedy``.

    Raises:
        FileNotFoundError: There is no manifest.
    """
    try:
        values: dict[str, Any] = read_json(path)
        if values.get("format", 1) != 1:
            raise error(f"{path} has a newer format: update pyterrier_csplade")
        for name, entry in values["files"].items():
            outside = Path(name).is_absolute() or ".." in Path(name).parts
            if outside or type(entry["bytes"]) is not int or type(entry["sha256"]) is not str:
                raise ValueError("an entry is not a file with size and digest")
    except (ValueError, KeyError, TypeError, AttributeError) as damage:
        raise error(f"{path} is damaged ({damage}): {remedy}") from damage
    return values


def damages(directory: Path, files: Files, *, digests: bool | None = None) -> Iterator[str]:
    """Yield the name of each file that differs from its entry in the manifest, and what is wrong with it.

    Sizes are always compared. Digests are compared if ``digests`` is true, or if it is None and the files have at most
    ``HASHED_ON_OPENING`` bytes.
    """
    if digests is None:
        digests = sum(entry["bytes"] for entry in files.values()) <= HASHED_ON_OPENING
    for name, entry in files.items():
        path = directory / name
        try:
            if not path.is_file():
                yield f"{name} is missing"
            elif (size := path.stat().st_size) != entry["bytes"]:
                yield f"{name} has {size:,} bytes, not {entry['bytes']:,}"
            elif digests and sha256(path) != entry["sha256"]:
                yield f"{name} has changed since it was written"
        except OSError as error:
            yield f"{name} cannot be read ({error.strerror})"


def has_manifest(directory: Path) -> bool:
    """Return whether a directory contains the manifest of an index."""
    return (directory / MANIFEST_FILE).exists()


def check_on_opening(directory: Path, *, digests: bool | None = None) -> None:
    """Compare an index with its manifest: the sizes of its files and, as ``digests`` says, their digests; see :func:`damages`.

    Raises:
        ImpactIndexError: A file is missing or differs; the message names it.
    """
    path = directory / MANIFEST_FILE
    try:
        files = read_manifest(path, ImpactIndexError, "build the index again")["files"]
    except FileNotFoundError as error:
        raise ImpactIndexError(f"{path} is missing: the index is damaged, or ImpactIndex did not build it") from error
    for damage in damages(directory, files, digests=digests):
        raise ImpactIndexError(f"{directory}: {damage}: build or copy the index again")


def read_whole(directory: Path, read: Callable[[], T]) -> T:
    """Read files of one version of an index; read them again if another process replaces the index meanwhile."""
    while True:
        before = _identity(directory)
        try:
            result = read()
        except (CspladeError, OSError):
            if _identity(directory) == before:
                raise
        else:
            if _identity(directory) == before:
                return result


def _identity(directory: Path) -> tuple[int, int, int] | None:
    """Identify the manifest file, not its content: an index that is rebuilt from the same documents has an equal manifest."""
    try:
        status = (directory / MANIFEST_FILE).stat()
    except OSError:  # missing, or links that form a circle
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns
