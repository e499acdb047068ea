"""Impacts in OpenSearch, for collections that one machine does not hold: the pipelines of :class:`ImpactIndex`, another engine.

Needs the official client: ``pip install "pyterrier_csplade[opensearch]"``. Neither torch nor Java.
"""

from __future__ import annotations

from .index import OpenSearchIndex

__all__ = ["OpenSearchIndex"]
