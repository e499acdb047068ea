"""Inside of ``pyterrier_csplade.collection``."""

from __future__ import annotations

from pyterrier_csplade.collection import encoding, opened
from pyterrier_csplade.collection.documents import Part, divide
from pyterrier_csplade.collection.encoding import encode_collection
from pyterrier_csplade.collection.opened import Lookup, check_vectors
from pyterrier_csplade.collection.ray import OnRay, cluster
from pyterrier_csplade.collection.shard import ShardFile, pack
from pyterrier_csplade.collection.store import writing

__all__ = [
    "Lookup",
    "OnRay",
    "Part",
    "ShardFile",
    "check_vectors",
    "cluster",
    "divide",
    "encode_collection",
    "encoding",
    "opened",
    "pack",
    "writing",
]
