"""Files that are whole or absent, their digests, and locks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[None]:
    """Rename a temporary file to its final name, and bring both to the disk, when the body has written it.

    On an error, the temporary file is removed and nothing is replaced. A body that writes nothing replaces nothing.

    Args:
        path: The final name.
        temporary: The temporary name, in the same directory.
    """
    try:
        yield
        if temporary.exists():
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: The file cannot be written. If the disk is full, the message states how much the file needs.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with replacing(path, temporary):
            temporary.write_bytes(content)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        message = f"no space left, {len(content):,} bytes are needed for this file: free some and run the same again"
        raise OSError(error.errno, message, str(path)) from error


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


def sha256(path: Path) -> str:
    """Return the digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


class LockedError(Exception):
    """Another writer holds a lock; the text names its process."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on this machine. The lock belongs to the process and ends with it, however the process ends.

    Args:
        path: The file of the lock. It is removed at the end.
        wait: Whether to wait until the lock is free.

    Raises:
        LockedError: Another writer holds the lock, and ``wait`` is False.
        OSError: The file cannot be written.
    """
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(_owner(path)) from error
    try:
        with contextlib.suppress(OSError):  # only for messages; Windows locks the content, too
            path.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        # Removed while it is held: a writer that opened the file before sees that it has no name any more, and tries again.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if owner := path.read_text(encoding="ascii"):
            return owner
    return "of another writer"
