"""Encoded collections: the sparse vectors of many documents on disk, written in shards that survive whatever stops the run."""

from __future__ import annotations

from .collection import EncodedCollection

__all__ = ["EncodedCollection"]
