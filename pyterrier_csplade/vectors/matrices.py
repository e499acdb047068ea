"""Encoded documents as matrices, which bulk encoders pass to indexes and engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError

from .checks import check_matrix
from .contract import Contract

# Maximum number of postings in a piece; our choice (not measured).
_PIECE = 2**20


@runtime_checkable
class EncodedVectors(Protocol):
    """Encoded documents in order, in blocks that fit in memory."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """The index terms, in the order of the matrices' columns."""
        ...

    @property
    def contract(self) -> Contract | None:
        """The contract of the encoder; None if unknown."""
        ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and their vectors [documents, terms], without stored zeros."""
        ...


@dataclass(frozen=True)
class MatrixVectors:
    """Encoded documents in memory, as one matrix.

    Attributes:
        docnos: The docno of each row.
        matrix: [documents, terms]; other scipy formats and numpy arrays are converted to CSR.
        vocabulary: The index terms, in the order of the columns.
        contract: The contract of the encoder; None if unknown.
    """

    docnos: Sequence[str]
    matrix: csr_matrix
    vocabulary: Sequence[str]
    contract: Contract | None = None

    def __post_init__(self) -> None:
        if isinstance(self.docnos, str):
            raise TypeError(f"docnos must be a list of docnos, found one text, {self.docnos[:40]!r}: put it in a list")
        if not isinstance(self.contract, (Contract, type(None))):
            raise TypeError(f"contract must be a Contract or None, found {type(self.contract).__name__}")
        object.__setattr__(self, "matrix", csr_matrix(self.matrix))  # does not copy a CSR matrix
        expected = len(self.docnos), len(self.vocabulary)
        if self.matrix.shape != expected:
            raise ValueError(f"expected a matrix of (docnos, terms) = {expected}, found {self.matrix.shape}")
        check_matrix(self.matrix, self.docnos)

    def __len__(self) -> int:
        return len(self.docnos)

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield everything as one block."""
        yield self.docnos, self.matrix


@dataclass(frozen=True)
class ChangedVectors:
    """Encoded documents whose matrices are changed block by block as they are read.

    Attributes:
        encoded: The documents.
        change: Returns the changed matrix of a block.
        vocabulary: The index terms after the change.
        contract: The contract after the change; None if unknown.
    """

    encoded: EncodedVectors
    change: Callable[[csr_matrix], csr_matrix]
    vocabulary: Sequence[str]
    contract: Contract | None

    def __len__(self) -> int:
        return len(self.encoded)

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and changed vectors."""
        for docnos, matrix in self.encoded.blocks():
            check_matrix(matrix, docnos)
            yield docnos, self.change(matrix)


def checked_pieces(encoded: EncodedVectors) -> Iterator[tuple[list[str], csr_matrix]]:
    """Yield docnos and vectors in pieces of about a million postings; duplicate entries are summed, as in scipy.

    Raises:
        DataError: A term appears twice in the vocabulary, the shape of a block does not match its docnos and the vocabulary, a
            column is out of range, or the number of documents is not ``len(encoded)``.
    """
    terms = encoded.vocabulary
    if len(set(terms)) < len(terms):
        twice, _ = Counter(terms).most_common(1)[0]
        raise DataError(f"the term {twice!r} appears twice in the vocabulary of the encoded documents")
    documents = 0
    for docnos, matrix in encoded.blocks():
        if matrix.shape != (len(docnos), len(terms)):
            raise DataError(
                f"the block after {documents:,} documents has {len(docnos):,} docnos and {len(terms):,} terms, but a matrix of "
                f"{matrix.shape}"
            )
        check_matrix(matrix, docnos)
        for rows in row_pieces(matrix.indptr, _PIECE):
            piece = matrix[rows]  # a copy, so that changes do not reach the caller's matrix
            piece.sum_duplicates()
            yield [docnos[row] for row in range(rows.start, rows.stop)], piece
        documents += len(docnos)
    if documents != len(encoded):
        raise DataError(f"expected {len(encoded):,} encoded documents, found {documents:,}")


def row_pieces(indptr: np.ndarray, postings: int) -> Iterator[slice]:
    """Yield ranges of rows of a CSR matrix, each with one row or at most ``postings`` postings."""
    row, rows = 0, len(indptr) - 1
    while row < rows:
        end = int(np.searchsorted(indptr, indptr[row] + postings, side="right")) - 1
        yield slice(row, row := min(max(end, row + 1), rows))
