"""The exceptions of this package."""

from __future__ import annotations


class CspladeError(Exception):
    """Base class: something that the message says how to put right."""


class CollectionError(CspladeError, RuntimeError):
    """An encoded collection is missing, incomplete, damaged, locked or made with other settings."""


class ConfigError(CspladeError, ValueError):
    """A training configuration is not valid."""


class ContractError(CspladeError, ValueError):
    """An argument, an adapter or an index contradicts the contract of a checkpoint."""


class DataError(CspladeError, ValueError):
    """A document, query or training row cannot be used; the message names it."""


class ImpactIndexError(CspladeError, RuntimeError):
    """An index is missing, incomplete, damaged, locked or of another model."""


class TrainingError(CspladeError, RuntimeError):
    """A training run cannot go on."""


class TrainingInterruptedError(TrainingError):
    """A signal asked a training run to end; it has been saved and can go on."""
