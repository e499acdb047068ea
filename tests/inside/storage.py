"""Inside of ``pyterrier_csplade.storage``."""

from __future__ import annotations

from pyterrier_csplade.storage import arrays, docnos, manifest, signals, workspace

__all__ = ["arrays", "docnos", "manifest", "signals", "workspace"]
