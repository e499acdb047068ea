"""Encoded documents as matrices: what bulk encoders hand to the engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError

from .contract import Contract

# Postings of a piece.
_PIECE = 2**20


@runtime_checkable
class EncodedVectors(Protocol):
    """Encoded documents in their order, in blocks that fit in memory.

    Attributes:
        vocabulary: The index terms, in the order of the matrices' columns.
        contract: The contract of the encoder; None if unknown.
    """

    @property
    def vocabulary(self) -> Sequence[str]:
        """The index terms."""
        ...

    @property
    def contract(self) -> Contract | None:
        """The encoder's contract."""
        ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and their vectors, [documents, terms of the vocabulary], without stored zeros."""
        ...


@dataclass(frozen=True)
class MatrixVectors:
    """Encoded documents that are in memory as one matrix.

    Attributes:
        docnos: One for each row.
        matrix: [documents, terms of the vocabulary]; other formats of scipy and arrays of numpy become CSR.
        vocabulary: The index terms, in the order of the columns.
        contract: The contract of the encoder; None if unknown.
    """

    docnos: Sequence[str]
    matrix: csr_matrix
    vocabulary: Sequence[str]
    contract: Contract | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", csr_matrix(self.matrix))  # of whatever format; a CSR matrix is not copied
        expected = len(self.docnos), len(self.vocabulary)
        if self.matrix.shape != expected:
            raise ValueError(f"expected a matrix of (docnos, terms) = {expected}, found {self.matrix.shape}")

    def __len__(self) -> int:
        return len(self.docnos)

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield everything as one block."""
        yield self.docnos, self.matrix


def check_encoded(encoded: object) -> None:
    """Refuse what is no collection of encoded documents, such as a matrix alone.

    Raises:
        TypeError: It is none.
    """
    if not hasattr(encoded, "blocks"):
        raise TypeError(
            f"expected encoded documents, such as MatrixVectors(docnos, matrix, csplade.vocabulary, csplade.contract), found "
            f"{type(encoded).__name__}"
        )


def checked_pieces(encoded: EncodedVectors) -> Iterator[tuple[list[str], csr_matrix]]:
    """Yield docnos and vectors in pieces of about a million postings; entries that stand twice are added up, as scipy does.

    Raises:
        DataError: A term stands twice in the vocabulary, a block has another shape than its docnos and the vocabulary, or
            there are more or fewer documents than promised.
    """
    terms = encoded.vocabulary
    seen: set[str] = set()
    twice = [term for term in terms if term in seen or seen.add(term)]  # type: ignore[func-returns-value]
    if twice:
        raise DataError(f"the term {twice[0]!r} stands twice in the vocabulary of the encoded documents")
    documents = 0
    for docnos, matrix in encoded.blocks():
        if matrix.shape != (len(docnos), len(terms)):
            raise DataError(
                f"the block after {documents:,} documents has {len(docnos):,} docnos and {len(terms):,} terms, but a matrix of "
                f"{matrix.shape}"
            )
        for rows in row_pieces(matrix.indptr, _PIECE):
            piece = matrix[rows]  # a copy: what is done to it, the caller does not see
            piece.sum_duplicates()
            yield [docnos[row] for row in range(rows.start, rows.stop)], piece
        documents += len(docnos)
    if documents != len(encoded):
        raise DataError(f"{documents:,} encoded documents came, not the {len(encoded):,} that were promised")


def row_pieces(indptr: np.ndarray, postings: int) -> Iterator[slice]:
    """Yield ranges of the rows of a CSR matrix with at most so many postings each, or one row."""
    row, rows = 0, len(indptr) - 1
    while row < rows:
        end = int(np.searchsorted(indptr, indptr[row] + postings, side="right")) - 1
        yield slice(row, row := min(max(end, row + 1), rows))
