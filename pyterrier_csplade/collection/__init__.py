"""Encoded collections: the sparse vectors of many documents on disk, written in shards that survive a kill."""

from __future__ import annotations

from .collection import EncodedCollection

__all__ = ["EncodedCollection"]
