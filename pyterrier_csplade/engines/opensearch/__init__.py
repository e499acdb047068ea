"""Impacts in OpenSearch, for collections too large for one machine; pipelines are the same as with :class:`ImpactIndex`.

Needs the official client, ``pip install "pyterrier_csplade[opensearch]"``, but neither torch nor Java.
"""

from __future__ import annotations

from .index import OpenSearchIndex

__all__ = ["OpenSearchIndex"]
