"""Inside of ``pyterrier_csplade.cli``."""

from __future__ import annotations

from pyterrier_csplade.cli import demo
from pyterrier_csplade.cli.encode import launched_part
from pyterrier_csplade.cli.main import _parser, main
from pyterrier_csplade.cli.models import launched_device
from pyterrier_csplade.cli.terms import readable_terms

__all__ = ["_parser", "demo", "launched_device", "launched_part", "main", "readable_terms"]
