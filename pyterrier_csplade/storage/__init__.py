"""Files that are whole or absent: manifests, locks, temporary names and arrays on disk; and memory-frugal sets of docnos."""

from __future__ import annotations

from .docnos import Docnos

__all__ = ["Docnos"]
