"""What is attached to a contrastive run: cockpit and validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from pyterrier_csplade._backbone import Backbone
from pyterrier_csplade._contract import Contract

from ._checkpoints import step_of
from ._cockpit import Cockpit
from ._contrastive_config import ContrastiveConfig
from ._slice import read_slice
from ._trainer import WEIGHTS_FILE
from ._validation import Validation

# Queries of the batch that pre-flight and cockpit look at, and negatives of each. Ours: a second or two for 8B.
_PROBE = 16
_PROBE_NEGATIVES = 3


def attach(trainer: Any, backbone: Backbone, config: ContrastiveConfig, contract: Contract) -> None:
    """Let cockpit and validation watch a run.

    Args:
        trainer: The run's trainer.
        backbone: Its model.
        config: Its settings.
        contract: With the lengths of encoding.
    """
    cockpit = Cockpit(trainer, backbone, _probe(trainer), config)
    trainer.diagnostics.append(cockpit.diagnose)
    trainer.parts["cockpit"] = cockpit
    trainer.add_callback(cockpit)
    if config.validation is not None:
        data = read_slice(config.validation)
        trainer.add_callback(Validation(trainer, backbone, contract, data, config.validation))


def _probe(trainer: Any) -> dict[str, Any]:
    """A batch of rows from all over the data, with few negatives."""
    dataset = trainer.train_dataset
    places = range(0, len(dataset), max(1, len(dataset) // _PROBE))
    rows = [dataset[place] for place in places][:_PROBE]
    for row in rows:
        row["negatives"] = row["negatives"][:_PROBE_NEGATIVES]
    batch: dict[str, Any] = trainer.data_collator(rows)
    return batch


def best_weights(trainer: Any, checkpoints: Path) -> dict[str, Tensor] | None:
    """The trained parameters of the best validated checkpoint; None if the run was not validated."""
    best = trainer.state.best_global_step
    if best is None:  # a run that had ended already was loaded without its state
        newest = max(checkpoints.glob("checkpoint-*/trainer_state.json"), key=lambda path: step_of(path.parent), default=None)
        best = None if newest is None else json.loads(newest.read_text(encoding="utf-8"))["best_global_step"]
    file = checkpoints / f"checkpoint-{best}" / WEIGHTS_FILE
    return load_file(file) if best is not None and file.is_file() else None
