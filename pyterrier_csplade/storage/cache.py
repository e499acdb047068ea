"""The user's cache: directories that are created once, whole or not at all, and can be recreated."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pyterrier_csplade._errors import CspladeError

from .files import locked, sync


def cache_directory() -> Path:
    """Return ``PYTERRIER_CSPLADE_HOME``, or by default ``pyterrier_csplade`` in the user's cache directory."""
    if home := os.environ.get("PYTERRIER_CSPLADE_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyterrier_csplade"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the directory of the cache with a name; if it is missing, ``make`` fills an empty directory, which is moved there.

    One process creates it while others wait. Leftovers of killed processes are removed.

    Raises:
        CspladeError: The cache cannot be written.
    """
    home = cache_directory()
    target = home / name
    if target.is_dir():
        return target
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / f".{name}.lock"):
            if not target.is_dir():
                for leftover in home.glob(f".{name}-*"):
                    shutil.rmtree(leftover)
                _make(target, make)
    except OSError as error:
        raise CspladeError(
            f"{target} cannot be made ({error}): free space or change the permissions, or name another directory for the "
            "cache in the environment variable PYTERRIER_CSPLADE_HOME"
        ) from error
    return target


def _make(target: Path, make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        make(made)
        for path in sorted(made.rglob("*")):
            sync(path)
        made.rename(target)
        sync(target.parent)
