"""Training of CSPLADE models: adaptation, then contrastive training."""

from __future__ import annotations

from pyterrier_csplade._errors import TrainingInterruptedError
from pyterrier_csplade.training.monitoring.curves import plot_curves
from pyterrier_csplade.training.planning.dry_run import dry_run
from pyterrier_csplade.training.planning.plan import Plan

from .adaptation import adapt
from .config import AdaptationConfig, ContrastiveConfig, LoraSettings, TargetNnz, ValidationSettings
from .config_file import load_config
from .contrastive import train
from .mining import mine_negatives
from .table import TableConfig

__all__ = [
    "AdaptationConfig",
    "ContrastiveConfig",
    "LoraSettings",
    "Plan",
    "TableConfig",
    "TargetNnz",
    "TrainingInterruptedError",
    "ValidationSettings",
    "adapt",
    "dry_run",
    "load_config",
    "mine_negatives",
    "plot_curves",
    "train",
]
