"""Checkpoints on disk: whole or not there, proved by digests, and the old ones removed."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

from pyterrier_csplade._errors import TrainingError
from pyterrier_csplade.storage.files import sync
from pyterrier_csplade.storage.manifest import damages, read_manifest, write_manifest

#: The checkpoints, in a run's directory.
CHECKPOINTS = "checkpoints"
_MANIFEST = "manifest.json"
_UNFINISHED = ".unfinished"


def unfinished(directory: Path) -> Path:
    """Where a checkpoint is written before it moves to ``directory``."""
    return directory / _UNFINISHED


def publish(written: Path, processes: int) -> None:
    """Seal a checkpoint that was written in ``unfinished(directory)``, and move it to ``directory``.

    Args:
        written: The checkpoint.
        processes: That took part in the run.
    """
    write_manifest(written, _MANIFEST, processes=processes)
    target = written.parent.parent / written.name
    if target.exists():
        shutil.rmtree(target)
    os.replace(written, target)
    sync(target.parent)


def last_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint; warns of newer ones that are damaged and passed over."""
    for checkpoint in sorted(directory.glob("checkpoint-*"), key=step_of, reverse=True):
        damage = damage_of(checkpoint)
        if damage is None:
            return checkpoint
        warnings.warn(f"{checkpoint} is passed over: {damage}", stacklevel=2)
    return None


def damage_of(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is as it was written."""
    try:
        files = read_manifest(checkpoint / _MANIFEST, TrainingError, "it cannot be resumed from")["files"]
    except FileNotFoundError:
        return f"it has no {_MANIFEST}, so it was not written to its end"
    except TrainingError as error:
        return str(error)
    return next(damages(checkpoint, files, digests=True), None)


def processes_of(checkpoint: Path) -> int:
    """How many processes took part in the run that wrote a checkpoint."""
    return int(json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))["processes"])


def remove_old(directory: Path, kept: int, best: int | None) -> None:
    """Remove all checkpoints but the newest and the best one.

    Args:
        directory: Where they are.
        kept: How many of the newest stay.
        best: Step of the best one, which stays as well; None if none is known to be.
    """
    for checkpoint in sorted(directory.glob("checkpoint-*"), key=step_of)[:-kept]:
        if step_of(checkpoint) != best:
            shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
