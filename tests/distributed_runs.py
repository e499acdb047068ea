"""Contrastive runs that must end alike; started by test_distributed.py in several processes, or in one.

Usage: distributed_runs.py BASE OUTPUT SETTINGS..., each SETTINGS a JSON object with a name and settings of the run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from training_runs import contrastive_config

from pyterrier_csplade.training import LoraSettings, train

if __name__ == "__main__":
    torch.set_num_threads(1)
    for text in sys.argv[3:]:
        settings = json.loads(text)
        settings["lora"] = LoraSettings(**settings["lora"]) if settings.get("lora") else None
        train(contrastive_config(Path(sys.argv[1]), Path(sys.argv[2]) / settings.pop("name"), **settings))
