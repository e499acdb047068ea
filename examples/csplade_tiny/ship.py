"""Save the trained model for the package: weights as bfloat16, all phases of its training in its contract.

Usage: python ship.py BUILD DESTINATION
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyterrier_csplade import CSPLADE

PHASES = ("lm", "adapted", "contrastive-1", "contrastive-2", "contrastive-3", "contrastive-4", "contrastive-5")
#: Settings that are paths, or that do not change the result.
LEFT_OUT = ("model", "output", "data", "corpus", "logging_steps", "save_steps", "revision")


def main(build: Path, destination: Path) -> None:
    csplade = CSPLADE(build / PHASES[-1], dtype="bfloat16")
    training = {}
    for phase in PHASES:
        settings = json.loads((build / phase / "training_config.json").read_text())
        training[phase] = {key: value for key, value in settings.items() if key not in LEFT_OUT}
    csplade.backbone.contract = csplade.contract.replace(base_model=None, training=training)
    csplade.save(destination)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
