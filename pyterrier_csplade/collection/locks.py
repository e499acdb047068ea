"""One writer for each shard of a collection."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pyterrier_csplade._errors import CollectionError

from .documents import Part

_PREFIX = ".writer-"


@contextlib.contextmanager
def writing(directory: Path, part: Part) -> Iterator[None]:
    """Be the only process that writes a part of a collection.

    The lock belongs to the process and ends with it, however that ends.

    Raises:
        CollectionError: Another process writes shards of this part; names it.
    """
    lock = FileLock(directory / f"{_PREFIX}{part.index}-of-{part.count}", timeout=0)
    with alone(directory):
        for other in directory.glob(f"{_PREFIX}*-of-*"):
            _check_free(other, part, directory)
        lock.acquire()
        Path(lock.lock_file).write_text(str(os.getpid()), encoding="ascii")
    try:
        yield
    finally:
        _remove(lock)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Let no other writer of a collection, of whatever part, in here meanwhile."""
    lock = FileLock(directory / f"{_PREFIX}all")
    with lock:
        try:
            yield
        finally:
            _remove(lock)


def _remove(lock: FileLock) -> None:
    # Removed while it is held: a writer that opened it before sees that it has no name any more, and tries again.
    with contextlib.suppress(OSError):
        os.unlink(lock.lock_file)
    lock.release()


def _check_free(path: Path, part: Part, directory: Path) -> None:
    numbers = re.fullmatch(r"(\d+)-of-(\d+)", path.name.removeprefix(_PREFIX))
    if numbers is None or not part.overlaps(Part(int(numbers[1]), int(numbers[2]))):
        return
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
        _remove(lock)  # what a killed process left
    except Timeout as error:
        pid = path.read_text(encoding="ascii") or "of another writer"
        raise CollectionError(f"{directory} is being written by the process {pid}: wait for its end") from error
