"""Inside of ``pyterrier_csplade.storage``."""

from __future__ import annotations

from pyterrier_csplade.storage import arrays, docnos, manifest, signals, workspace
from pyterrier_csplade.storage.cache import cache_directory, cached

__all__ = ["arrays", "cache_directory", "cached", "docnos", "manifest", "signals", "workspace"]
