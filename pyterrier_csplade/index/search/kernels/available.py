"""Requirements of searches with compiled loops: numba, and working memory."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from types import ModuleType

import numpy as np

from pyterrier_csplade._errors import CspladeError


def has_numba() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def kernels(module: str, needed_by: str) -> ModuleType:
    """Import a module of compiled loops; ``needed_by`` begins the error message.

    Raises:
        CspladeError: numba is not installed.
    """
    if not has_numba():
        raise CspladeError(f'{needed_by} needs numba: pip install "pyterrier_csplade[fast]"')
    return importlib.import_module(f".{module}", __package__)


class Scratch(threading.local):
    """Arrays that each thread keeps and reuses.

    Fresh memory costs a page fault for every 4 kB, which takes longer than a search in a small collection.
    """

    def __init__(self) -> None:
        """Start without arrays."""
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, size: int, dtype: np.typing.DTypeLike = np.float64) -> np.ndarray:
        """Return an array with undefined content, valid until the thread asks for the same name again.

        Always use the same ``dtype`` for a name.
        """
        kept = self._arrays.get(name)
        if kept is None or len(kept) < size:
            kept = self._arrays[name] = np.empty(size, dtype)
        return kept[:size]
