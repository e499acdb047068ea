"""The encoder of a query table, for programs that start in a fraction of a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scipy.sparse import csr_matrix

from pyterrier_csplade.vectors.checks import check_plain_queries
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .content import TableContent


class TableEncoder:
    """Encodes queries with a query table but without PyTerrier, for a search service or a script that must start quickly.

    Only numpy, scipy and tokenizers are imported. In a pipeline, use :class:`QueryTable`, which gives the same vectors.

    Example::

        QueryTable.fit(csplade, topics["query"]).save("my.table")  # once, with the model
        encoder = TableEncoder.load("my.table")
        weights = encoder.encode(["what is an inverted index"])

    Attributes:
        contract: The contract of the table; ``queries_for`` is the fingerprint of the documents' encoder.
        vocabulary: The index terms, in the order of the columns.
    """

    def __init__(self, content: TableContent) -> None:
        """Prepare a table; :meth:`load` and :class:`QueryTable` call it."""
        self.contract: Contract = content.contract
        self.vocabulary: Vocabulary = content.vocabulary
        self._counts = content.counts
        #: Finds the index terms of queries.
        self.tokens = content.tokens
        #: The weights that each term of a query adds to terms, float32 [terms, terms].
        self.rows = content.rows

    @classmethod
    def load(cls, path: str | Path) -> TableEncoder:
        """Read a table from its directory.

        Raises:
            FileNotFoundError: The directory contains no table.
            ContractError: A file is missing, damaged, or in a newer format; the message names it.
        """
        return cls(TableContent.load(Path(path)))

    def encode(self, texts: Sequence[str], *, names: Sequence[str] | None = None) -> csr_matrix:
        """Encode queries.

        Args:
            texts: Any number of queries; a blank query has an empty vector.
            names: Names of the queries in error messages; "text 0", "text 1" ... by default.

        Returns:
            float32 weights above 0, [texts, terms].

        Raises:
            DataError: A query is not a string or not valid Unicode; the message names it.
        """
        checked = check_plain_queries(texts, names or [f"text {position}" for position in range(len(texts))])
        vectors = csr_matrix(self.tokens(checked, counts=self._counts) @ self.rows)
        vectors.sort_indices()
        return vectors
