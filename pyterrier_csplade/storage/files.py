"""Files that are written whole or not at all, digests, and locks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_ZEROS = 2**20


@contextlib.contextmanager
def replacing(path: Path, temporary: Path) -> Iterator[None]:
    """Rename a temporary file in the same directory to its final name after the body has written it, and flush both to disk.

    On an error, the temporary file is removed and nothing is replaced. If the body writes nothing, nothing is replaced.
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
        OSError: The file cannot be written. If the disk is full, the message says how much space the file needs.
    """
    # With a random name and exclusive creation, no link that somebody else has created is followed.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with needing(len(content), path), replacing(path, temporary), temporary.open("xb") as file:
        file.write(content)


def read_json(path: Path) -> Any:
    """Read a JSON file from an untrusted source.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: The file cannot be read, or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:  # a file is named where a directory is expected
        raise FileNotFoundError(*error.args, str(path)) from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def parse_json(content: bytes) -> Any:
    """Parse JSON from an untrusted source.

    Raises:
        ValueError: The content is not JSON in UTF-8, or it is nested too deeply.
    """
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def reserve(file: BinaryIO, path: Path, size: int) -> None:
    """Extend a file to ``size`` bytes before it is mapped: on a full disk, writing to the mapping would kill the process.

    Raises:
        OSError: The disk is full; the message says how much space the file needs.
    """
    start = file.seek(0, os.SEEK_END)
    with needing(size, path):
        with contextlib.suppress(AttributeError):  # not on macOS and Windows
            try:
                os.posix_fallocate(file.fileno(), start, size - start)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not on all file systems
                    raise
        for place in range(start, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - place)))
        file.flush()


@contextlib.contextmanager
def needing(size: int, path: Path) -> Iterator[None]:
    """Add to the error of a full disk how much space a file needs."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        message = f"no space left, {size:,} bytes are needed for this file: free some space and run the same command again"
        raise OSError(error.errno, message, str(path)) from error


def sync(path: Path) -> None:
    """Flush a file or directory to the disk, where the platform can."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no file descriptors of directories
    # Windows syncs only files that are open for writing.
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
    """Another writer holds a lock; the text is its process id."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on this machine, which the operating system releases when the process ends or is killed.

    The lock belongs to the directory that is at ``path.parent`` when the lock is acquired, even if another process replaced the
    directory while this one waited.

    Args:
        path: The lock file, which is removed at the end.
        wait: Whether to wait until the lock is free.

    Raises:
        LockedError: Another writer holds the lock, and ``wait`` is False.
        OSError: The file cannot be written.
    """
    from filelock import FileLock, Timeout  # not above: reading a query table needs no lock, and little time

    while True:
        with _opened(path.parent) as folder:
            lock = FileLock(path, timeout=-1 if wait else 0)
            while not lock.is_locked:
                try:
                    lock.acquire()
                except Timeout as error:
                    if path.exists():  # otherwise its holder has just removed it
                        raise LockedError(_owner(path)) from error
            try:
                # If the directory was replaced meanwhile, the lock may belong to the old one.
                if folder is None or os.path.samestat(os.fstat(folder), path.parent.stat()):
                    try:
                        with contextlib.suppress(OSError):  # needed for messages only; Windows locks the content, too
                            _write_owner(path, folder)
                        yield
                        return
                    finally:
                        # The file is removed while the lock is held: a writer that has opened it sees that it has no name any
                        # more, and tries again. If the directory is replaced now, the lock of the new one is kept.
                        with contextlib.suppress(OSError):
                            os.unlink(path if folder is None else path.name, dir_fd=folder)
            finally:
                lock.release()


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    """Open a directory; the descriptor stays valid if another directory takes its path. Yield None on systems without this."""
    if os.unlink not in os.supports_dir_fd:
        yield None
        return
    descriptor = os.open(directory, getattr(os, "O_PATH", os.O_RDONLY))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_owner(path: Path, folder: int | None) -> None:
    flags = os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path if folder is None else path.name, flags, dir_fd=folder), "wb") as file:
        file.write(str(os.getpid()).encode())


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if owner := path.read_text(encoding="ascii"):
            return owner
    return "of another writer"
