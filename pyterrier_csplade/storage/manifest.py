"""The manifest of an index: size and SHA-256 of each of its files, written last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyterrier_csplade._errors import CspladeError, ImpactIndexError

T = TypeVar("T")

MANIFEST_FILE = "csplade_manifest.json"

#: Bytes of an index up to which opening it re-hashes all files (ours: about half a second). Above, opening compares sizes.
HASHED_ON_OPENING = 256 * 2**20


def write_manifest(directory: Path) -> None:
    """Bring all files of a directory to the disk, then the manifest that lists them."""
    files = {}
    for file in sorted(directory.iterdir()):
        sync(file)
        files[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    manifest = directory / MANIFEST_FILE
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=2) + "\n", encoding="utf-8")
    sync(manifest)
    sync(directory)


def sync(path: Path) -> None:
    """Bring a file or directory to the disk, as far as the platform can."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no descriptors of directories
    # Windows syncs only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_manifest(directory: Path) -> bool:
    """Whether a directory holds a manifest."""
    return (directory / MANIFEST_FILE).exists()


def check_on_opening(directory: Path) -> None:
    """Compare the files with the manifest as far as opening can afford: sizes always, digests of small indexes.

    Raises:
        ImpactIndexError: A file is missing or differs; names it.
    """
    files = _read(directory)
    _check_sizes(directory, files)
    if sum(entry["bytes"] for entry in files.values()) <= HASHED_ON_OPENING:
        _check_digests(directory, files)


def check_all(directory: Path) -> None:
    """Compare sizes and digests of all files with the manifest.

    Raises:
        ImpactIndexError: A file is missing or differs; names it.
    """
    files = _read(directory)
    _check_sizes(directory, files)
    _check_digests(directory, files)


def read_whole(directory: Path, read: Callable[[], T]) -> T:
    """Read files that all belong to one index: once more if another process has replaced them meanwhile."""
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
    """Which file the manifest is, not what it says: an index that is built again from the same documents says the same."""
    try:
        status = (directory / MANIFEST_FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / MANIFEST_FILE
    try:
        files: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["files"]
        # A name with a directory would leave the index.
        if not all(Path(name).name == name and {"bytes", "sha256"} <= entry.keys() for name, entry in files.items()):
            raise ValueError("an entry is not a file with size and digest")
    except FileNotFoundError as error:
        raise ImpactIndexError(f"{path} is missing: the index is damaged, or ImpactIndex did not build it") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImpactIndexError(f"{path} is damaged ({error}): build the index again") from error
    return files


def _check_sizes(directory: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, entry in files.items():
        path = directory / name
        if not path.exists():
            raise ImpactIndexError(f"{path} is missing: build or copy the index again")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise ImpactIndexError(f"{path} has {size:,} bytes, not {entry['bytes']:,}: build or copy the index again")


def _check_digests(directory: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, entry in files.items():
        if _sha256(directory / name) != entry["sha256"]:
            raise ImpactIndexError(f"{directory / name} has changed since it was written: build or copy the index again")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, bring it to the disk, and give it its name.

    Raises:
        OSError: The file cannot be written; if the disk is full, the message says how much the file needs.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            message = f"no space left, {len(content):,} bytes are needed for this file: free some and run the same again"
            raise OSError(error.errno, message, str(path)) from error
        raise
    sync(path.parent)


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
