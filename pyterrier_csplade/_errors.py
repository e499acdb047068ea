"""The exceptions of this package."""

from __future__ import annotations

import signal


def is_failure(error: BaseException) -> bool:
    """Whether a library failed: it raised an Exception, or a library in Rust panicked, which is raised as something else."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


class CspladeError(Exception):
    """Base class; messages name the problem and its solution."""


class CollectionError(CspladeError, RuntimeError):
    """An encoded collection is missing, incomplete, damaged, locked or encoded with other settings."""


class ConfigError(CspladeError, ValueError):
    """A training configuration is not valid."""


class ContractError(CspladeError, ValueError):
    """An argument, an adapter or an index contradicts the contract of a checkpoint."""


class DataError(CspladeError, ValueError):
    """A document, query or training row cannot be used; the message names it."""


class ImpactIndexError(CspladeError, RuntimeError):
    """An index is missing, incomplete, damaged, locked or built with another model."""


class TrainingError(CspladeError, RuntimeError):
    """A training run cannot continue."""


class TrainingInterruptedError(TrainingError):
    """A signal stopped a training run, which was saved and can be resumed.

    Attributes:
        number: Number of the signal.
    """

    number: int = signal.SIGTERM
