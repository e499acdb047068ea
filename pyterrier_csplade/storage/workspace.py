"""Building a directory beside its target: one writer at a time, and a target that is always whole."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pyterrier_csplade._errors import ImpactIndexError

from .manifest import sync

# Linux: renameat2(AT_FDCWD, ..., AT_FDCWD, ..., RENAME_EXCHANGE).
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Where an old target stands during a publication in two steps.
_ASIDE = "replaced"


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Open a temporary directory beside a target, the only one for it on this machine.

    What a killed process left there is removed. The lock belongs to the process and ends with it, however that ends.

    Args:
        target: The directory that will be published; need not exist.

    Yields:
        An empty directory on the target's file system.

    Raises:
        ImpactIndexError: Another writer is at work, or the place cannot be written.
    """
    # The name is hashed, because that of the target may already be as long as the file system allows.
    prefix = f".csplade-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    lock = FileLock(target.parent / f"{prefix}.lock", timeout=0)
    try:
        _check_name(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _write_owner(lock)
        _clear(target, prefix)
        directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=target.parent))
    except Timeout as error:
        raise ImpactIndexError(f"{target} is being written by the process {_owner(lock)}: wait for its end") from error
    except OSError as error:
        lock.release()
        raise ImpactIndexError(f"cannot write an index at {target}: {error}") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        # Removed while it is held: a writer that opened it before sees that it has no name any more, and tries again.
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def publish(source: Path, target: Path) -> None:
    """Put a finished directory in the place of the target, in one step where the operating system has one.

    Without such a step (outside Linux) an old target stands aside for an instant, in which a kill leaves none; the next
    writer then puts it back.
    """
    if not target.exists():
        source.rename(target)
    elif not _exchange(source, target):
        target.rename(source.parent / _ASIDE)
        source.rename(target)
    sync(target.parent)


def _exchange(source: Path, target: Path) -> bool:
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE)
    return status == 0


def _clear(target: Path, prefix: str) -> None:
    for leftover in target.parent.glob(f"{prefix}-*"):
        aside = leftover / _ASIDE
        if aside.exists() and not target.exists():
            aside.rename(target)
        shutil.rmtree(leftover)


def _check_name(target: Path) -> None:
    """Raise the OSError of a name that cannot exist before the work, not after."""
    with contextlib.suppress(FileNotFoundError):
        target.lstat()


def _write_owner(lock: FileLock) -> None:
    with contextlib.suppress(OSError):  # only for the message of the next writer; Windows locks the content as well
        Path(lock.lock_file).write_text(str(os.getpid()), encoding="ascii")


def _owner(lock: FileLock) -> str:
    with contextlib.suppress(OSError):
        return Path(lock.lock_file).read_text(encoding="ascii")
    return "of another writer"


@contextlib.contextmanager
def publishing(directory: Path, name: str) -> Iterator[Path]:
    """Write the postings of an index under a temporary name, and rename the file when it is complete.

    One process writes at a time; others wait for its end.

    Args:
        directory: The directory of the index.
        name: The file to write; one of several that belong to the postings.

    Yields:
        The temporary name. Where nothing is written, nothing is renamed.

    Raises:
        ImpactIndexError: The directory cannot be written.
    """
    lock = FileLock(directory / ".csplade_postings.lock")
    temporary = directory / f".csplade_postings-{os.getpid()}"
    try:
        lock.acquire()
    except OSError as error:
        raise ImpactIndexError(f"cannot write the postings of {directory} beside it: {error}") from error
    try:
        for leftover in directory.glob(".csplade_postings-*"):
            leftover.unlink()
        yield temporary
        if temporary.exists():
            os.replace(temporary, directory / name)
            sync(directory)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        with contextlib.suppress(OSError):  # removed while it is held, as in workspace()
            os.unlink(lock.lock_file)
        lock.release()
