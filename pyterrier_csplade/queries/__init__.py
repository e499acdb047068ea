"""Queries without a language model: tables that turn a query's tokens into a sparse vector.

This folder loads neither torch nor transformers.
"""

from __future__ import annotations

from .content import TABLE_FILE, TableContent
from .filling import Filling, fill
from .table import QueryTable, Teacher

__all__ = ["TABLE_FILE", "Filling", "QueryTable", "TableContent", "Teacher", "fill"]
