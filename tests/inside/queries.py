"""Inside ``pyterrier_csplade.queries``."""

from __future__ import annotations

from pyterrier_csplade.queries.content import TableContent
from pyterrier_csplade.queries.filling import mean_weights, nonnegative_ridge, own_weight
from pyterrier_csplade.queries.tokens import QueryTokens, twins

__all__ = ["QueryTokens", "TableContent", "mean_weights", "nonnegative_ridge", "own_weight", "twins"]
