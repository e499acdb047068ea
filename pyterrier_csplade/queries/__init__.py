"""Queries without a language model: tables that turn a query's tokens into a sparse vector.

This folder loads neither torch nor transformers, and :class:`TableEncoder` loads neither pandas nor PyTerrier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyterrier_csplade._lazy import lazy

if TYPE_CHECKING:
    from .content import TABLE_FILE, TableContent
    from .encoder import TableEncoder
    from .filling import Filling, fill
    from .table import QueryTable, Teacher

__all__ = ["TABLE_FILE", "Filling", "QueryTable", "TableContent", "TableEncoder", "Teacher", "fill"]

_NAMES = {
    "content": ["TABLE_FILE", "TableContent"],
    "encoder": ["TableEncoder"],
    "filling": ["Filling", "fill"],
    "table": ["QueryTable", "Teacher"],
}

__getattr__, __dir__ = lazy(__name__, {name: module for module, names in _NAMES.items() for name in names})
