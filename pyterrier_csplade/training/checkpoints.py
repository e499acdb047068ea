"""Files of a run that are either complete or absent: the prepared training data, and checkpoints with digests."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from pyterrier_csplade._errors import DataError, TrainingError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.storage.files import sync
from pyterrier_csplade.storage.manifest import damages, read_manifest, write_manifest

from .distributed import rank

#: Name of the folder of checkpoints in a run's directory.
CHECKPOINTS = "checkpoints"
_MANIFEST = "manifest.json"
_UNFINISHED = ".unfinished"
_REMEDY = "earlier checkpoints are complete: free space, and resume with resume=True or --resume"


def unfinished(directory: Path) -> Path:
    """Return the folder in which a checkpoint is written before it moves to ``directory``."""
    return directory / _UNFINISHED


def publish(written: Path, processes: int) -> None:
    """Write the manifest of a checkpoint, and move the checkpoint out of ``unfinished(directory)`` if it is there."""
    (written / _MANIFEST).unlink(missing_ok=True)  # from an earlier checkpoint in the same place
    write_manifest(written, _MANIFEST, processes=processes)
    if written.parent.name != _UNFINISHED:
        return
    target = written.parent.parent / written.name
    remove(target)
    os.replace(written, target)
    sync(target.parent)


def last_checkpoint(directory: Path) -> Path | None:
    """Return the newest complete checkpoint, and warn about newer ones that are damaged."""
    for checkpoint in sorted(directory.glob("checkpoint-*"), key=step_of, reverse=True):
        damage = damage_of(checkpoint)
        if damage is None:
            return checkpoint
        warn(f"skipping {checkpoint}: {damage}")
    return None


def damage_of(checkpoint: Path) -> str | None:
    """Describe the damage of a checkpoint; None if it is intact."""
    try:
        manifest = read_manifest(checkpoint / _MANIFEST, TrainingError, "it cannot be resumed from")
        processes = manifest.get("processes")
        if type(processes) is not int or processes < 1:
            return f"{_MANIFEST} does not contain the number of processes"
        return next(damages(checkpoint, manifest["files"], digests=True), None)
    except FileNotFoundError:
        return f"it has no {_MANIFEST}, so it was not written completely"
    except (TrainingError, OSError) as error:
        return str(error)


def processes_of(checkpoint: Path) -> int:
    """Return the number of processes of the run that wrote a checkpoint."""
    return int(read_manifest(checkpoint / _MANIFEST, TrainingError, "it cannot be resumed from")["processes"])


def remove_old(directory: Path, kept: int, best: int | None) -> None:
    """Remove all checkpoints except the newest ones and the best one.

    Args:
        directory: Folder of the checkpoints.
        kept: Number of newest checkpoints to keep.
        best: Step of the best checkpoint, which is kept as well; None if unknown.
    """
    for checkpoint in sorted(directory.glob("checkpoint-*"), key=step_of)[:-kept]:
        if step_of(checkpoint) != best:
            remove(checkpoint)


def remove(directory: Path) -> None:
    """Remove a directory if it exists; of a symbolic link, remove only the link."""
    if directory.is_symlink():
        directory.unlink()
    elif directory.exists():
        shutil.rmtree(directory)


@contextmanager
def writing(path: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Convert the errors of torch and safetensors on a full disk to an OSError.

    Args:
        path: File or directory that is written, for the message.
        remedy: What to do, for the message.

    Raises:
        OSError: A file cannot be written; the message names it.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's name for the file that it writes
            raise
        cause = getattr(error, "strerror", None) or str(error).splitlines()[0]
        number, name = getattr(error, "errno", None) or errno.EIO, getattr(error, "filename", None) or path
        raise OSError(number, f"cannot be written ({cause}): {remedy}", str(name)) from error


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Convert the errors of parsers about the files of a checkpoint to a TrainingError."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise TrainingError(
            f"{checkpoint} cannot be resumed from ({type(error).__name__}: {str(error)[:200]}): remove it to resume from an "
            "earlier one"
        ) from error


def without_links(path: str, flags: int) -> int:
    """Open a file unless it is a symbolic link; an ``opener`` for ``open``."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which a checkpoint was written."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


@contextmanager
def prepared(path: Path) -> Iterator[BinaryIO]:
    """Open a file of training data for writing. It appears as ``path`` when it is complete.

    The first process of every machine writes it, so machines need not share the directory.

    Raises:
        DataError: The directory contains checkpoints and the file would change, so the run could not continue as it began.
    """
    partial = path.with_name(f"{path.name}.{rank()}.partial")
    partial.unlink(missing_ok=True)  # from a run that was killed
    try:
        with writing(partial, "free space, or name another output"), partial.open("xb") as out:  # "x" follows no link
            yield out
        begun = path.exists() and any((path.parent / CHECKPOINTS).glob("checkpoint-*"))
        if begun and not filecmp.cmp(partial, path, shallow=False):
            raise DataError(
                f"{path.parent}: the training data has changed since the run began: resume with the same data, or name another "
                "output"
            )
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
