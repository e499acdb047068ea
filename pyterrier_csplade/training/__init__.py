"""Training of CSPLADE models: adaptation, then contrastive training."""

from __future__ import annotations

from ._adaptation import adapt
from ._config import AdaptationConfig, LoraSettings
from ._config_file import load_config
from ._contrastive import train
from ._contrastive_config import ContrastiveConfig
from ._curves import plot_curves
from ._dry_run import dry_run
from ._mining import mine_negatives
from ._monitoring_config import TargetNnz, ValidationSettings
from ._plan import Plan

__all__ = [
    "AdaptationConfig",
    "ContrastiveConfig",
    "LoraSettings",
    "Plan",
    "TargetNnz",
    "ValidationSettings",
    "adapt",
    "dry_run",
    "load_config",
    "mine_negatives",
    "plot_curves",
    "train",
]
