"""The Terrier index of impacts: how it is built, checked, opened and searched."""

from __future__ import annotations

from .documents import take_documents
from .fields import FieldLoader
from .index import ImpactIndex
from .spool import Spool

__all__ = ["FieldLoader", "ImpactIndex", "Spool", "take_documents"]
