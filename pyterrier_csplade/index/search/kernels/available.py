"""Compiled code, where numba is installed."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from pyterrier_csplade._errors import CspladeError


def has_numba() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def kernels(module: str, needed_by: str) -> ModuleType:
    """Import a module of compiled loops.

    Args:
        module: Its name in this package.
        needed_by: What needs it, for the message.

    Raises:
        CspladeError: numba is not installed.
    """
    if not has_numba():
        raise CspladeError(f'{needed_by} needs numba: pip install "pyterrier_csplade[fast]"')
    return importlib.import_module(f".{module}", __package__)
