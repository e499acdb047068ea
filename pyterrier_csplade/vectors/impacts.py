"""Sparse impact vectors: cutting, quantising, and the dictionaries that pipelines carry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError

from .contract import Contract

#: The largest impact that Terrier can store (Java's int).
MAX_IMPACT = 2**31 - 1


class ImpactVector(dict[str, float]):
    """Term to impact (``toks``) or to query weight (``query_toks``): a dict that knows which encoder made it.

    Attributes:
        contract: The encoder's contract, by which an index refuses vectors of another model; None if unknown.
    """

    __slots__ = ("contract",)

    def __init__(self, items: Mapping[str, float] | Iterable[tuple[str, float]] = (), contract: Contract | None = None) -> None:
        super().__init__(items)
        self.contract = contract

    def __reduce__(self) -> tuple[type[ImpactVector], tuple[dict[str, float], Contract | None]]:
        return ImpactVector, (dict(self), self.contract)


@dataclass(frozen=True)
class Quantizer:
    """Turns weights into integer impacts: ``floor(weight * scale + 0.5)``, entries that become 0 are dropped.

    Attributes:
        scale: Impact of the weight 1. 100 is the field's convention (SPLADE, LACONIC); the paper names none.
    """

    scale: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale must be positive and finite, found {self.scale}")

    @property
    def smallest_weight(self) -> float:
        """A weight below which every impact is 0: a little under that of the impact 1, against rounding."""
        return 0.5 / self.scale * (1 - 1e-6)

    def __call__(self, matrix: csr_matrix, names: Sequence[str] | None = None) -> csr_matrix:
        """Quantise a matrix of weights [texts, terms].

        Args:
            matrix: The weights.
            names: How a message calls each row; "row 0", "row 1" ... by default.

        Returns:
            int32 matrix of the same shape without stored zeros.

        Raises:
            DataError: A weight is negative, not finite, or its impact is above ``MAX_IMPACT``; names the row.
        """
        impacts = np.floor(matrix.data.astype(np.float64) * self.scale + 0.5)
        bad = np.flatnonzero(~((matrix.data >= 0) & (impacts <= MAX_IMPACT)))
        if len(bad):
            row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
            name = names[row] if names else f"row {row}"
            raise DataError(
                f"{name} has the weight {matrix.data[bad[0]]}: impacts need weights from 0 to {MAX_IMPACT / self.scale:g}"
            )
        quantised = csr_matrix((impacts.astype(np.int32), matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
        quantised.eliminate_zeros()
        return quantised


def check_cuts(top_k: int | None, min_weight: float) -> None:
    """Refuse cuts that would leave nothing, or mean nothing.

    Raises:
        ValueError: ``top_k`` is below 1, or ``min_weight`` negative or not finite.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for all terms, found {top_k}")
    if not 0 <= min_weight < math.inf:
        raise ValueError(f"min_weight must be finite and not negative, found {min_weight}")


def top_k(matrix: csr_matrix, k: int) -> csr_matrix:
    """Keep the ``k`` largest entries of each row; of equal ones those in the first columns."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data.astype(np.float64), rows))  # unsigned numbers have no negative
    rank = np.arange(len(order)) - matrix.indptr[rows[order]]
    return _keep(matrix, np.sort(order[rank < k]))


def minimum_weight(matrix: csr_matrix, weight: float) -> csr_matrix:
    """Keep the entries of at least ``weight``."""
    return _keep(matrix, np.flatnonzero(matrix.data >= weight))


def heaviest_mass(matrix: csr_matrix, mass: float) -> csr_matrix:
    """Keep the fewest heaviest entries of each row that add up to the share ``mass`` of it; zeros carry nothing.

    Of equal entries those in the first columns are kept. Rows are added up one by one, so that none depends on another.
    """
    kept = [np.empty(0, dtype=np.int64)]
    for start, end in zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist()):
        order = start + np.lexsort((matrix.indices[start:end], -matrix.data[start:end].astype(np.float64)))
        sums = np.cumsum(matrix.data[order], dtype=np.float64)
        if end > start and sums[-1] > 0:
            kept.append(np.sort(order[: np.searchsorted(sums, mass * sums[-1]) + 1]))
    return _keep(matrix, np.concatenate(kept))


def check_finite(matrix: csr_matrix, names: Sequence[str]) -> None:
    """Refuse weights that are not finite; ``names`` are those of the rows.

    Raises:
        DataError: There is one; names its row.
    """
    bad = np.flatnonzero(~np.isfinite(matrix.data))
    if len(bad):
        row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
        raise DataError(
            f"{names[row]}: the model gave the weight {matrix.data[bad[0]]}; try another dtype, such as 'bfloat16' or 'float32'"
        )


def to_vectors(matrix: csr_matrix, vocabulary: Sequence[str], contract: Contract | None = None) -> list[ImpactVector]:
    """Turn each row into a dictionary, the heaviest term first; integers stay integers."""
    vectors = []
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:]):
        order = start + np.lexsort((matrix.indices[start:end], -matrix.data[start:end]))
        terms = (vocabulary[column] for column in matrix.indices[order].tolist())
        vectors.append(ImpactVector(zip(terms, matrix.data[order].tolist()), contract))
    return vectors


def _keep(matrix: csr_matrix, entries: np.ndarray) -> csr_matrix:
    indptr = np.searchsorted(entries, matrix.indptr)
    return csr_matrix((matrix.data[entries], matrix.indices[entries], indptr), shape=matrix.shape)
