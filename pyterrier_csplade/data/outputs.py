"""Files that a command writes, and that may exist before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyterrier as pt

from pyterrier_csplade._errors import DataError

# Bytes of a file's first line that are read; our choice (not measured). A line of a run is shorter.
_BEGINNING = 2**16


def check_output(path: Path, kind: str, is_own: Callable[[bytes], bool]) -> None:
    """Refuse to replace anything but an empty file or a file of the same kind.

    Args:
        path: The file to write.
        kind: Name of the kind in the error message, such as "a run".
        is_own: Whether the first line of a file, of which very long ones are cut, belongs to this kind.

    Raises:
        DataError: There is a directory, a device, or a file of another kind.
    """
    if path.is_dir():
        raise DataError(f"output {path} is a directory: name a file")
    if not path.exists():
        return
    if not (path.is_file() and _is_replaceable(path, is_own)):
        raise DataError(f"output {path} exists and is not {kind}: name another file, or remove it")


def _is_replaceable(path: Path, is_own: Callable[[bytes], bool]) -> bool:
    try:
        with pt.io.autoopen(str(path), "rb") as file:
            beginning = file.readline(_BEGINNING)
    except Exception:  # it is not compressed as its name says, or cannot be read; libraries raise errors of many kinds
        return path.stat().st_size == 0
    return not beginning or is_own(beginning)
