"""Encoded documents as matrices: what bulk encoders hand to the engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from scipy.sparse import csr_matrix

from ._contract import Contract


@runtime_checkable
class EncodedVectors(Protocol):
    """Encoded documents in their order, in blocks that fit in memory.

    Attributes:
        vocabulary: The index terms, in the order of the matrices' columns.
        contract: The contract of the encoder; None if unknown.
    """

    @property
    def vocabulary(self) -> Sequence[str]: ...
    @property
    def contract(self) -> Contract | None: ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and their vectors, [documents, terms of the vocabulary], without stored zeros."""
        ...


@dataclass(frozen=True)
class MatrixVectors:
    """Encoded documents that are in memory as one matrix.

    Attributes:
        docnos: One for each row.
        matrix: [documents, terms of the vocabulary].
        vocabulary: The index terms, in the order of the columns.
        contract: The contract of the encoder; None if unknown.
    """

    docnos: Sequence[str]
    matrix: csr_matrix
    vocabulary: Sequence[str]
    contract: Contract | None = None

    def __post_init__(self) -> None:
        expected = len(self.docnos), len(self.vocabulary)
        if self.matrix.shape != expected:
            raise ValueError(f"expected a matrix of (docnos, terms) = {expected}, found {self.matrix.shape}")

    def __len__(self) -> int:
        return len(self.docnos)

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield everything as one block."""
        yield self.docnos, self.matrix
