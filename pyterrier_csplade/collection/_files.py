"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path

from pyterrier_csplade._manifest import sync

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, bring it to the disk, and give it its name.

    Raises:
        OSError: The file cannot be written; if the disk is full, the message says how much the file needs.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            message = f"no space left, {len(content):,} bytes are needed for this file: free some and run the same again"
            raise OSError(error.errno, message, str(path)) from error
        raise
    sync(path.parent)


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
