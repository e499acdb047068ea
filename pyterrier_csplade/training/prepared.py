"""Files that a run makes of its data before it starts: whole or not there, and the same when the run goes on."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pyterrier_csplade._errors import DataError

from .checkpoints import CHECKPOINTS
from .distributed import rank


@contextmanager
def prepared(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears as ``path`` when it is whole.

    The first process of every machine writes it, so that machines may share the directory or not.

    Raises:
        DataError: The directory holds checkpoints, and the file would change: the run could not go on as it began.
    """
    unfinished = path.with_name(f"{path.name}.{rank()}.partial")
    with unfinished.open("wb") as out:
        yield out
    begun = path.exists() and any((path.parent / CHECKPOINTS).glob("checkpoint-*"))
    if begun and not filecmp.cmp(unfinished, path, shallow=False):
        unfinished.unlink()
        raise DataError(
            f"{path.parent}: the training data is no longer what the run began with: go on with the same data, or name another "
            "output"
        )
    unfinished.replace(path)
