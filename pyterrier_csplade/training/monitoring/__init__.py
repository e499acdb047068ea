"""Monitoring of training runs: pre-flight, cockpit, validation, curves, and the effect of merging an adapter."""

from __future__ import annotations

from .cockpit import Cockpit
from .curves import plot_curves
from .grounding import batch_grounding, fallen
from .parity import Probe
from .preflight import Preflight, top_position_share
from .validation import Slice, Validation, index_bytes, read_slice

__all__ = [
    "Cockpit", "Preflight", "Probe", "Slice", "Validation", "batch_grounding", "fallen", "index_bytes", "plot_curves",
    "read_slice", "top_position_share",
]  # fmt: skip
