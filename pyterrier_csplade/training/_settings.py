"""The settings with which a checkpoint was written, so that a resumed run can say what it changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ._config import TrainingConfig

_FILE = "settings.json"

# They change no result; or, as the data, they are compared by what they hold and not by their names.
_WITHOUT_EFFECT = frozenset({"output", "data", "corpus", "logging_steps", "save_steps", "keep_checkpoints", "report_to"})


def save_settings(checkpoint: Path, config: TrainingConfig) -> None:
    """Write the settings of a run into its checkpoint."""
    (checkpoint / _FILE).write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")


def changed_settings(checkpoint: Path, config: TrainingConfig) -> str:
    """Say which settings are no longer those of a checkpoint, with both values; empty if none is, or if it has none."""
    path = checkpoint / _FILE
    if not path.is_file():
        return ""
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(asdict(config)))
    changed = [key for key in now if key not in _WITHOUT_EFFECT and before.get(key, now[key]) != now[key]]
    return ", ".join(f"{key} {before[key]!r} -> {now[key]!r}" for key in changed)
