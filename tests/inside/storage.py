"""Inside of ``pyterrier_csplade.storage``."""

from __future__ import annotations

from pyterrier_csplade.storage import docnos

__all__ = ["docnos"]
