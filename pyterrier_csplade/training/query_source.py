"""The queries to which a cheaper query encoder is fitted, and the model that it imitates."""

from __future__ import annotations

# Annotations are evaluated in this module, as in config.py.
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import ConfigError, DataError
from pyterrier_csplade.data.queries import suggested_queries
from pyterrier_csplade.data.sources import open_source
from pyterrier_csplade.data.topics import read_topics
from pyterrier_csplade.model.csplade import CSPLADE

from .fields import BE_A_SEED, BE_POSITIVE, NOT_BE_EMPTY, Checked, SettingError, check_model


@dataclass(frozen=True, kw_only=True)
class QuerySource(Checked):
    """Settings that name queries and the model that encoded the documents.

    Attributes:
        model: Directory or hub id of the model that encoded the documents, or csplade-tiny.
        output: Directory of the result.
        revision: Revision of a hub model.
        adapter: Directory or hub id of a PEFT adapter.
        queries: Queries that resemble the future queries: a file, a directory, or the name of a dataset, as for
            ``pyterrier-csplade search --topics``, or a list of these.
        split: Split of the queries in a directory, or variant of a dataset's topics.
        collection: Documents from which queries are taken if there are none: a file, a directory, or the name of a dataset, as
            for ``pyterrier-csplade encode``. The first sentence of each field is a query.
        text_fields: Fields of the documents.
        documents: Number of documents from which queries are taken, drawn with equal probability; our choice (not measured).
        seed: Seed of the draw, and of batches.
    """

    model: str = field(metadata=NOT_BE_EMPTY)
    output: str = field(metadata=NOT_BE_EMPTY)
    revision: str | None = None
    adapter: str | None = None
    queries: str | list[str] | None = field(default=None, metadata=NOT_BE_EMPTY)
    split: str | None = None
    collection: str | None = field(default=None, metadata=NOT_BE_EMPTY)
    text_fields: list[str] = field(default_factory=lambda: ["title", "text"], metadata=NOT_BE_EMPTY)
    documents: int = field(default=20_000, metadata=BE_POSITIVE)
    seed: int = field(default=0, metadata=BE_A_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model(self.model, self.revision)
        if (self.queries is None) == (self.collection is None):
            raise SettingError("set either queries, or a collection from which to take them", ("queries",))

    @property
    @abstractmethod
    def made(self) -> tuple[str, str]:
        """What the output is, and its file."""

    def read(self) -> list[str]:
        """Return the queries.

        Raises:
            DataError: There are no queries; the message names the file, dataset or field.
        """
        if self.collection is not None:
            return suggested_queries(open_source(self.collection), self.text_fields, self.documents, self.seed)
        names = [self.queries] if isinstance(self.queries, str) else self.queries or []
        return list(dict.fromkeys(query for name in names for query in _texts(name, self.split)))

    def check_output(self) -> None:
        """Refuse an output that is neither new nor an earlier result of the same kind, because it would be replaced.

        Raises:
            ConfigError: The output is a file, or a directory with other files.
        """
        output, (kind, file) = Path(self.output), self.made
        if output.exists() and not output.is_dir():
            raise ConfigError(f"output {output} is a file: name a directory")
        if output.is_dir() and any(output.iterdir()) and not (output / file).exists():
            raise ConfigError(f"output {output} contains other files than {kind}: name a new directory")

    def load_model(self, **settings: Any) -> CSPLADE:
        """Return the model without loading its weights; ``settings`` are other arguments of ``CSPLADE``."""
        return CSPLADE(self.model, revision=self.revision, adapter=self.adapter, **settings)


def _texts(name: str, split: str | None) -> list[str]:
    topics = read_topics(name, split=split)
    if "query" not in topics or topics["query"].isna().any():
        raise DataError(f"{name}: a query has no text, only a vector")
    return [str(query) for query in topics["query"]]
