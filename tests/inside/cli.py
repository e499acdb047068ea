"""Inside of ``pyterrier_csplade.cli``."""

from __future__ import annotations

from pyterrier_csplade.cli import demo
from pyterrier_csplade.cli.encode import launched_device, launched_part
from pyterrier_csplade.cli.main import _parser, main

__all__ = ["_parser", "demo", "launched_device", "launched_part", "main"]
