"""Training runs that must give the same results in one process and in several.

Usage: distributed_runs.py BASE OUTPUT SETTINGS..., each SETTINGS a JSON object with a name and settings of the run; and perhaps
"phase": "adaptation", "terminate_at", a step after which a signal comes (to the process "only", by default to all; "number", by
default SIGTERM), and "resume".
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from inside.training import CurvesTrainer
from pyterrier_csplade.training import LoraSettings, TrainingInterruptedError, ValidationSettings, adapt, train
from support.training_runs import adaptation_config, contrastive_config


def run(base: Path, output: Path, settings: dict[str, Any]) -> None:
    """Do one run."""
    adaptation, resume = settings.pop("phase", "") == "adaptation", settings.pop("resume", False)
    last, end_step = settings.pop("terminate_at", None), CurvesTrainer.end_step
    only, number = settings.pop("only", None), settings.pop("number", signal.SIGTERM)
    for name, kind in (("lora", LoraSettings), ("validation", ValidationSettings)):
        if name in settings:
            settings[name] = kind(**settings[name])

    def terminated(self: CurvesTrainer) -> None:
        if self.state.global_step == last and only in (None, int(os.environ["RANK"])):
            os.kill(os.getpid(), number)
        end_step(self)

    setattr(CurvesTrainer, "end_step", terminated)  # noqa: B010
    output = output / settings.pop("name")
    with pytest.raises(TrainingInterruptedError) if last else nullcontext():
        if adaptation:
            adapt(adaptation_config(base, output, **settings), resume=resume)
        else:
            train(contrastive_config(base, output, **settings), resume=resume)
    setattr(CurvesTrainer, "end_step", end_step)  # noqa: B010


def main(base: str, output: str, *runs: str) -> None:
    """Do all runs, one after the other."""
    torch.set_num_threads(1)
    gc.freeze()  # as in tests/conftest.py
    for text in runs:
        run(Path(base), Path(output), json.loads(text))


if __name__ == "__main__":
    main(*sys.argv[1:])
