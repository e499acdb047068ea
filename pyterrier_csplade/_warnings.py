"""Warnings that point to the line of the user's code, also from background threads."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

# Packages whose frames are skipped to find the user's code.
_PASSED = (
    "pyterrier_csplade",
    "pyterrier",
    "concurrent",
    "threading",
    "tqdm",
    "transformers",
    "accelerate",
    "torch",
    "contextlib",
)
# File, line, module and registry of warnings, as warnings.warn_explicit takes them.
_Place = tuple[str, int, str, dict[Any, Any]]
# Place in the user's code that started a background thread.
_started_by: ContextVar[_Place | None] = ContextVar("started_by", default=None)


def warn(message: str) -> None:
    """Warn at the line of the user's code that called this package."""
    place = _caller()
    if place is None:
        warnings.warn(message, stacklevel=2)
    else:
        warnings.warn_explicit(message, UserWarning, *place)


def for_threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function for background threads whose warnings point to the line of the user's code that is running now."""
    context = copy_context()
    context.run(_started_by.set, _caller())
    return lambda *arguments: context.copy().run(function, *arguments)


def _caller() -> _Place | None:
    frame = sys._getframe(1) if hasattr(sys, "_getframe") else None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _PASSED:
            registry = frame.f_globals.setdefault("__warningregistry__", {})
            return frame.f_code.co_filename, frame.f_lineno, module, registry
        frame = frame.f_back
    return _started_by.get()
