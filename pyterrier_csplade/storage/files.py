"""Files that are whole or absent, their digests, and locks."""

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
    """Rename a temporary file to its final name when the body has written it, and flush both to the disk.

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
    # A name that nobody can guess, and exclusive creation: a link that was put there is not followed.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with needing(len(content), path), replacing(path, temporary), temporary.open("xb") as file:
        file.write(content)


def read_json(path: Path) -> Any:
    """Read a JSON file that somebody else may have written.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: The file cannot be read, or is not JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def parse_json(content: bytes) -> Any:
    """Parse JSON that somebody else may have written.

    Raises:
        ValueError: The content is not JSON in UTF-8, or it is nested too deeply.
    """
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def reserve(file: BinaryIO, path: Path, size: int) -> None:
    """Extend a file that is mapped into memory: if the disk were full when the memory is written, the process would end.

    Args:
        file: The file, open for writing.
        path: Its path, for messages.
        size: The number of bytes that it shall have.

    Raises:
        OSError: The disk is full; the message states how much the file needs.
    """
    start = file.seek(0, os.SEEK_END)
    with needing(size, path):
        with contextlib.suppress(AttributeError):  # not on macOS and Windows
            try:
                os.posix_fallocate(file.fileno(), start, size - start)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot
                    raise
        for place in range(start, size, _ZEROS):
            file.write(bytes(min(_ZEROS, size - place)))
        file.flush()


@contextlib.contextmanager
def needing(size: int, path: Path) -> Iterator[None]:
    """State in the error of a full disk how much a file needs."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        message = f"no space left, {size:,} bytes are needed for this file: free some and run the same again"
        raise OSError(error.errno, message, str(path)) from error


def sync(path: Path) -> None:
    """Flush a file or directory to the disk, where the platform can."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no descriptors of directories
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
    """Another writer holds a lock; the text names its process."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock on this machine. The lock belongs to the process and ends with it, however the process ends.

    The lock is the one of the directory that is at ``path.parent`` when it is taken, even if the directory was replaced while
    this process waited.

    Args:
        path: The file of the lock. It is removed at the end.
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
                    if path.exists():  # else its holder has just removed it
                        raise LockedError(_owner(path)) from error
            try:
                # If the directory was replaced meanwhile, the lock may be the old one's.
                if folder is None or os.path.samestat(os.fstat(folder), path.parent.stat()):
                    try:
                        with contextlib.suppress(OSError):  # only for messages; Windows locks the content, too
                            _write_owner(path, folder)
                        yield
                        return
                    finally:
                        # Removed while it is held: a writer that opened the file before sees that it has no name any more, and
                        # tries again. If the directory is replaced now, the new one has a lock of another process.
                        with contextlib.suppress(OSError):
                            os.unlink(path if folder is None else path.name, dir_fd=folder)
            finally:
                lock.release()


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int | None]:
    """Open a directory, which keeps its descriptor when another one is put at its path; None where the system cannot."""
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
