"""Files that are written whole or not at all: manifests, locks, temporary names and arrays; and memory-frugal sets of docnos.

Import the context manager ``workspace`` from the module of the same name.
"""

from __future__ import annotations

from .arrays import ArrayFile, ArrayWriter
from .docnos import Docnos
from .files import LockedError, locked, write_atomically
from .manifest import damages, read_manifest, write_manifest
from .workspace import publishing

__all__ = [
    "ArrayFile", "ArrayWriter", "Docnos", "LockedError", "damages", "locked", "publishing", "read_manifest", "write_atomically",
    "write_manifest",
]  # fmt: skip
