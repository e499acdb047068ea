"""Settings of the command ``table``."""

from __future__ import annotations

# Annotations are evaluated in this module, as in config.py.
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pyterrier_csplade._errors import ConfigError, DataError
from pyterrier_csplade.data.queries import suggested_queries
from pyterrier_csplade.data.sources import open_source
from pyterrier_csplade.data.topics import read_topics
from pyterrier_csplade.model.csplade import CSPLADE
from pyterrier_csplade.queries.content import TABLE_FILE
from pyterrier_csplade.queries.filling import Filling
from pyterrier_csplade.queries.table import QueryTable

from .fields import Checked, SettingError, must
from .table_distillation import distil_table

_BE_POSITIVE = must("be positive", lambda value: value > 0)
_NOT_BE_EMPTY = must("not be empty", bool)


@dataclass(frozen=True, kw_only=True)
class TableConfig(Checked):
    """Settings of ``pyterrier-csplade table``.

    Attributes:
        model: Directory or hub id of the model that encoded the documents, or csplade-tiny.
        output: Directory of the table.
        revision: Revision of a hub model.
        adapter: Directory or hub id of a PEFT adapter.
        queries: Queries like those to come: a file, a directory, or the name of a dataset, as for ``pyterrier-csplade search
            --topics``; or several of them.
        split: Split of a directory of queries, or variant of a dataset's topics.
        collection: Documents that suggest queries where there are none: a file, a directory, or the name of a dataset, as for
            ``pyterrier-csplade encode``. Of each field, the first sentence is a query.
        text_fields: Fields of the documents.
        documents: Number of documents that suggest queries, drawn with equal probability; our choice (not measured).
        seed: Seed of the draw, and of the batches of "distil".
        fill: "ridge" fits rows with expansion, "counts" only the weight of each token itself, and "distil" a function from the
            model's input embeddings to these weights.
        entries: Terms that a token's row holds at most besides the token itself; only for "ridge".
        threshold: Smallest weight in a row, as a share of the mean weight in the model's vectors; only for "ridge".
        ridge: Strength of the pull towards a table without expansion, as a number of queries.
        counts: Whether a token that a query repeats counts as often as it occurs, and not once; not for "distil".
        steps: Optimizer steps; only for "distil".
    """

    model: str = field(metadata=_NOT_BE_EMPTY)
    output: str = field(metadata=_NOT_BE_EMPTY)
    revision: str | None = None
    adapter: str | None = None
    queries: str | list[str] | None = field(default=None, metadata=_NOT_BE_EMPTY)
    split: str | None = None
    collection: str | None = field(default=None, metadata=_NOT_BE_EMPTY)
    text_fields: list[str] = field(default_factory=lambda: ["title", "text"], metadata=_NOT_BE_EMPTY)
    documents: int = field(default=20_000, metadata=_BE_POSITIVE)
    seed: int = field(default=0, metadata=must("be from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32))
    fill: Literal["ridge", "counts", "distil"] = "ridge"
    entries: int = field(default=4, metadata=_BE_POSITIVE)
    threshold: float = field(default=0.3, metadata=must("not be negative", lambda value: value >= 0))
    ridge: float = field(default=1.0, metadata=must("be at least 1e-06", lambda value: value >= 1e-6))
    counts: bool = False
    steps: int = field(default=10_000, metadata=_BE_POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fill == "distil" and self.counts:
            raise SettingError("fill: distil does not count repeated tokens: leave counts out", ("counts",))
        if (self.queries is None) == (self.collection is None):
            raise SettingError("give queries, or a collection that suggests some, but not both", ("queries",))

    def read(self) -> list[str]:
        """Return the queries.

        Raises:
            DataError: There are none; names the file, dataset or field.
        """
        if self.collection is not None:
            return suggested_queries(open_source(self.collection), self.text_fields, self.documents, self.seed)
        names = [self.queries] if isinstance(self.queries, str) else self.queries or []
        return list(dict.fromkeys(query for name in names for query in _texts(name, self.split)))

    def make(self, model: CSPLADE, queries: Sequence[str]) -> QueryTable:
        """Make the table."""
        if self.fill == "distil":
            return distil_table(model, queries, steps=self.steps, seed=self.seed)
        filling = Filling(kind=self.fill, entries=self.entries, threshold=self.threshold, ridge=self.ridge, counts=self.counts)
        return QueryTable.fit(model, queries, filling)

    def check_output(self) -> None:
        """Refuse an output that is neither new nor a table, which would be replaced.

        Raises:
            ConfigError: The output is a file, or a directory with other files.
        """
        output = Path(self.output)
        if output.exists() and not output.is_dir():
            raise ConfigError(f"output {output} is a file: name a directory")
        if output.is_dir() and any(output.iterdir()) and not (output / TABLE_FILE).exists():
            raise ConfigError(f"output {output} holds other files than a table: name a new directory")

    def load_model(self) -> CSPLADE:
        """Return the model, whose weights are not loaded yet."""
        if self.model == "csplade-tiny":
            return CSPLADE.tiny()
        return CSPLADE(self.model, revision=self.revision, adapter=self.adapter)


def _texts(name: str, split: str | None) -> list[str]:
    topics = read_topics(name, split=split)
    if "query" not in topics or topics["query"].isna().any():
        raise DataError(f"{name}: a query has no text, only a vector")
    return [str(query) for query in topics["query"]]
