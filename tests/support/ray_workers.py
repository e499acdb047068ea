"""Classes that workers of a Ray cluster import in tests."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyterrier_csplade import Quantizer


@dataclass(frozen=True, repr=False)
class NotingQuantizer:
    """Quantises as usual, but slowly, and records the processes that call it.

    Attributes:
        directory: Holds an empty file for each process, named by its id.
    """

    directory: Path

    def __call__(self, matrix: Any) -> Any:
        (self.directory / str(os.getpid())).touch()
        time.sleep(0.5)
        return Quantizer()(matrix)

    def __repr__(self) -> str:
        return repr(Quantizer())
