"""Training of CSPLADE models: the vocabulary stage, adaptation, and contrastive training."""

from __future__ import annotations

from pyterrier_csplade._errors import TrainingInterruptedError
from pyterrier_csplade.training.monitoring.curves import plot_curves
from pyterrier_csplade.training.planning.dry_run import dry_run
from pyterrier_csplade.training.planning.plan import Plan
from pyterrier_csplade.training.vocabulary.config import VocabularyConfig
from pyterrier_csplade.training.vocabulary.stage import make_vocabulary

from .adaptation import adapt
from .config import (
    AdaptationConfig,
    ContrastiveConfig,
    ExpansionSettings,
    LexicalSettings,
    LoraSettings,
    PassageSettings,
    PredictionSettings,
    TargetNnz,
    ValidationSettings,
)
from .config_file import load_config
from .contrastive import train
from .mining import mine_negatives
from .table import TableConfig

__all__ = [
    "AdaptationConfig",
    "ContrastiveConfig",
    "ExpansionSettings",
    "LexicalSettings",
    "LoraSettings",
    "PassageSettings",
    "Plan",
    "PredictionSettings",
    "TableConfig",
    "TargetNnz",
    "TrainingInterruptedError",
    "ValidationSettings",
    "VocabularyConfig",
    "adapt",
    "dry_run",
    "load_config",
    "make_vocabulary",
    "mine_negatives",
    "plot_curves",
    "train",
]
