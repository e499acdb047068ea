"""Files that are whole or absent: manifests, locks, temporary names and arrays on disk; and memory-frugal sets of docnos.

The context manager ``workspace`` has the name of its module, and is imported from there.
"""

from __future__ import annotations

from .arrays import ArrayFile, ArrayWriter, PackedStrings, StringTable
from .docnos import Docnos
from .files import LockedError, locked, sha256, sync, write_atomically
from .manifest import (
    MANIFEST_FILE,
    check_all,
    check_on_opening,
    damages,
    describe,
    has_manifest,
    read_manifest,
    read_whole,
    write_manifest,
)
from .signals import StopRequest, stopping
from .workspace import publish, publishing

__all__ = [
    "MANIFEST_FILE", "ArrayFile", "ArrayWriter", "Docnos", "LockedError", "PackedStrings", "StopRequest", "StringTable",
    "check_all", "check_on_opening", "damages", "describe", "has_manifest", "locked", "publish", "publishing", "read_manifest",
    "read_whole", "sha256", "stopping", "sync", "write_atomically", "write_manifest",
]  # fmt: skip
