"""Settings of the command ``table``."""

from __future__ import annotations

# Annotations are evaluated in this module, as in config.py.
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pyterrier_csplade.model.csplade import CSPLADE
from pyterrier_csplade.queries.content import TABLE_FILE
from pyterrier_csplade.queries.filling import Filling
from pyterrier_csplade.queries.table import QueryTable

from .fields import BE_POSITIVE, NOT_BE_NEGATIVE, SettingError, must
from .query_source import QuerySource
from .table_distillation import distil_table


@dataclass(frozen=True, kw_only=True)
class TableConfig(QuerySource):
    """Settings of ``pyterrier-csplade table``, in addition to the settings in :class:`QuerySource`.

    Attributes:
        fill: "ridge" fits rows with expansion, "counts" only the weight of each token itself, and "distil" a function from the
            model's input embeddings to these weights.
        entries: Maximum number of terms in a token's row besides the token itself; only for "ridge".
        threshold: Smallest weight in a row, as a share of the mean weight in the model's vectors; only for "ridge".
        ridge: Strength of the pull towards a table without expansion, as a number of queries.
        counts: Whether a repeated token of a query counts as often as it occurs, instead of once; not for "distil".
        steps: Optimizer steps; only for "distil".
    """

    fill: Literal["ridge", "counts", "distil"] = "ridge"
    entries: int = field(default=4, metadata=BE_POSITIVE)
    threshold: float = field(default=0.3, metadata=NOT_BE_NEGATIVE)
    ridge: float = field(default=1.0, metadata=must("be at least 1e-06", lambda value: value >= 1e-6))
    counts: bool = False
    steps: int = field(default=10_000, metadata=BE_POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fill == "distil" and self.counts:
            raise SettingError("fill: distil does not count repeated tokens: leave counts out", ("counts",))

    @property
    def made(self) -> tuple[str, str]:
        """A name for the output in messages, and the file that it contains."""
        return "a table", TABLE_FILE

    def make(self, model: CSPLADE, queries: Sequence[str]) -> QueryTable:
        """Make the table."""
        if self.fill == "distil":
            return distil_table(model, queries, steps=self.steps, seed=self.seed)
        filling = Filling(kind=self.fill, entries=self.entries, threshold=self.threshold, ridge=self.ridge, counts=self.counts)
        return QueryTable.fit(model, queries, filling)
