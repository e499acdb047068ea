"""Building a directory or file next to its target: one writer at a time, and a target that is always complete."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pyterrier_csplade._errors import ImpactIndexError

from .files import LockedError, locked, replacing, sync

# Linux: renameat2(AT_FDCWD, ..., AT_FDCWD, ..., RENAME_EXCHANGE).
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Prefix of files of postings that are being written.
_UNFINISHED = ".csplade_postings-"
# Name of the old target while publish() replaces it in two steps.
_ASIDE = "replaced"


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Yield an empty temporary directory next to a target, the only one for this target on this machine.

    The target need not exist. Leftovers of killed processes are removed.

    Raises:
        ImpactIndexError: Another writer is active, or the location is not writable.
    """
    # The name is hashed, because it may already be as long as the file system allows.
    prefix = f".csplade-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    with contextlib.ExitStack() as lock:
        try:
            _check_name(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            lock.enter_context(locked(target.parent / f"{prefix}.lock", wait=False))
            _clear(target, prefix)
            directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=target.parent))
        except LockedError as error:
            raise ImpactIndexError(f"{target} is being written by process {error}: wait until it has ended") from error
        except OSError as error:
            raise ImpactIndexError(f"cannot write an index at {target}: {error}") from error
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def publish(source: Path, target: Path) -> None:
    """Move a finished directory to the target's path, in one step if the operating system supports it.

    Otherwise (outside Linux), there is no target for an instant. If the process is killed at that moment, the next writer
    restores the old target.
    """
    if not target.exists():
        source.rename(target)
    elif not _exchange(source, target):
        target.rename(source.parent / _ASIDE)
        source.rename(target)
    sync(target.parent)


@contextlib.contextmanager
def publishing(directory: Path, name: str) -> Iterator[Path]:
    """Yield a temporary name for a file of an index's postings, and rename the file when it is complete.

    One process writes at a time while others wait. If the body writes nothing, nothing is renamed.

    Raises:
        ImpactIndexError: The directory cannot be written.
    """
    temporary = directory / f"{_UNFINISHED}{os.getpid()}"
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(_alone_in(directory))
        except OSError as error:
            raise ImpactIndexError(f"cannot write the postings of {directory} into it: {error}") from error
        with replacing(directory / name, temporary):
            yield temporary


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold the lock of the directory at a path, after removing files that killed processes left there.

    Another process may replace the directory at any time. The lock of the old directory gives no right to remove files from the
    new one.
    """
    while True:
        place = directory.stat()
        with locked(directory / ".csplade_postings.lock"):
            if _removed_unfinished(directory, place):
                yield
                return


def _removed_unfinished(directory: Path, place: os.stat_result) -> bool:
    """Remove unfinished files from a directory; return False if another directory has taken its path."""
    if os.unlink not in os.supports_dir_fd:  # Windows, where no directory with an open file can be replaced
        for leftover in directory.glob(f"{_UNFINISHED}*"):
            leftover.unlink()
        return True
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        if not os.path.samestat(os.fstat(descriptor), place):
            return False
        for name in os.listdir(descriptor):
            if name.startswith(_UNFINISHED):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    return True


def _check_name(target: Path) -> None:
    """Raise the OSError of a name that cannot exist before the work instead of after it."""
    with contextlib.suppress(FileNotFoundError):
        target.lstat()


def _clear(target: Path, prefix: str) -> None:
    for leftover in target.parent.glob(f"{prefix}-*"):
        if leftover.is_symlink():  # created by somebody else
            leftover.unlink()
            continue
        aside = leftover / _ASIDE
        if aside.exists() and not target.exists():
            aside.rename(target)
        shutil.rmtree(leftover)


def _exchange(source: Path, target: Path) -> bool:
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE)
    return status == 0
