"""Directories of the project."""

from __future__ import annotations

import tarfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
#: Real collections; tests that need them are skipped if they are missing.
SHARED = ROOT.parent / "shared" / "data"


def extract(archive: tarfile.TarFile, directory: Path) -> None:
    """Extract an archive; early releases of Python 3.10 and 3.11 have no filters."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(directory, filter="data")
    else:
        archive.extractall(directory)
