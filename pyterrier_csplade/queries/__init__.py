"""Queries without a language model: tables that turn a query's tokens into a sparse vector.

Nothing here loads torch or transformers.
"""

from __future__ import annotations

from .content import TABLE_FILE, TableContent
from .filling import Filling, fill
from .table import QueryTable, Teacher

__all__ = ["TABLE_FILE", "Filling", "QueryTable", "TableContent", "Teacher", "fill"]
