"""What tests of monitoring, planning and mining need from inside the package."""

from __future__ import annotations

from pyterrier_csplade.cli.main import main
from pyterrier_csplade.data.directory import CollectionFiles
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.training.config import POSTING_BYTES
from pyterrier_csplade.training.fields import config_from_dict
from pyterrier_csplade.training.gradient_cache import GradientCache
from pyterrier_csplade.training.monitoring.preflight import judge, winning_positions
from pyterrier_csplade.training.planning.cost import attention_activation, layer_activation
from pyterrier_csplade.training.readers import read_rows
from pyterrier_csplade.training.run import add_lora, reporters

__all__ = [
    "POSTING_BYTES", "Backbone", "CollectionFiles", "GradientCache", "add_lora", "attention_activation", "config_from_dict",
    "judge", "layer_activation", "main", "read_rows", "reporters", "winning_positions",
]  # fmt: skip
