"""Sparse impact vectors: pruning and quantising matrices, and the dictionaries in pipelines."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.sparse import csr_matrix

from .checks import check_entries, check_matrix
from .contract import Contract

#: The largest impact that Terrier can store (a Java int).
MAX_IMPACT = 2**31 - 1

# Number of a vector's terms that notebooks show.
_SHOWN = 20


class ImpactVector(dict[str, float]):
    """A dict of term to impact (``toks``) or query weight (``query_toks``) that records which encoder made it.

    Attributes:
        contract: The encoder's contract, so that an index can refuse vectors of another model; None if unknown.
        text_digest: Digest of the text that was encoded, which shows whether the text in the same row was changed later; None
            if unknown.
    """

    __slots__ = ("contract", "text_digest")

    def __init__(
        self,
        items: Mapping[str, float] | Iterable[tuple[str, float]] = (),
        contract: Contract | None = None,
        text_digest: bytes | None = None,
    ) -> None:
        super().__init__(items)
        self.contract = contract
        self.text_digest = text_digest

    def __hash__(self) -> int:  # type: ignore[override]  # PyTerrier drops repeated queries of a frame by their hashes
        return hash(frozenset(self.items()))

    def _repr_html_(self) -> str:
        """Return a table of the heaviest terms with bars, which notebooks show in place of the dict."""
        items = sorted(self.items(), key=lambda item: -item[1])
        longest = items[0][1] if items else 1.0
        rows = [
            f"<tr><td style='text-align:right'>{html.escape(term)}</td><td>{weight:,.4g}</td>"
            f"<td><div style='background:#4c78a8;height:0.8em;width:{max(0.0, 160 * weight / (longest or 1.0)):.0f}px'></div>"
            "</td></tr>"
            for term, weight in items[:_SHOWN]
        ]
        more = f"<tr><td></td><td colspan='2'>and {len(items) - _SHOWN:,} more</td></tr>" if len(items) > _SHOWN else ""
        return f"<table>{''.join(rows)}{more}</table>"

    def __reduce__(self) -> tuple[type[ImpactVector], tuple[dict[str, float], Contract | None, bytes | None]]:
        return ImpactVector, (dict(self), self.contract, self.text_digest)


@dataclass(frozen=True)
class Quantizer:
    """Turns weights into integer impacts, ``floor(weight * scale + 0.5)``, and drops impacts of 0.

    Attributes:
        scale: Impact of the weight 1. 100 is the convention of SPLADE and LACONIC; the paper gives no scale.
    """

    scale: float = 100.0

    def __post_init__(self) -> None:
        if not (isinstance(self.scale, Real) and 0 < self.scale < float("inf")):
            raise ValueError(f"scale must be a number, positive and finite, found {self.scale!r}")
        object.__setattr__(self, "scale", float(self.scale))  # numbers of numpy cannot be written as JSON

    @property
    def smallest_weight(self) -> float:
        """A weight below which every impact is 0, with a margin for rounding."""
        return 0.5 / self.scale * (1 - 1e-6)

    def __call__(self, matrix: csr_matrix, names: Sequence[str] | None = None) -> csr_matrix:
        """Quantise a matrix of weights [texts, terms].

        Args:
            matrix: The weights.
            names: Name of each row in error messages; "row 0", "row 1" ... by default.

        Returns:
            int32 matrix of the same shape without stored zeros.

        Raises:
            DataError: A weight is negative or not finite, or its impact is above ``MAX_IMPACT``; the message names the row.
        """
        impacts = np.floor(matrix.data.astype(np.float64) * self.scale + 0.5)
        good = (matrix.data >= 0) & (impacts <= MAX_IMPACT)
        check_entries(matrix, good, names, f"impacts need weights from 0 to {MAX_IMPACT / self.scale:g}")
        quantised = csr_matrix((impacts.astype(np.int32), matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
        quantised.eliminate_zeros()
        return quantised


def top_k(matrix: csr_matrix, k: int) -> csr_matrix:
    """Keep the ``k`` largest entries of each row; equal entries are ranked by column."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    # Converted to float, because negating unsigned integers wraps around.
    order = np.lexsort((matrix.indices, -matrix.data.astype(np.float64), rows))
    rank = np.arange(len(order)) - matrix.indptr[rows[order]]
    return _keep(matrix, np.sort(order[rank < k]))


def minimum_weight(matrix: csr_matrix, weight: float) -> csr_matrix:
    """Keep the entries of at least ``weight``."""
    return _keep(matrix, np.flatnonzero(matrix.data >= weight))


def heaviest_mass(matrix: csr_matrix, mass: float) -> csr_matrix:
    """Keep the fewest heaviest entries of each row that make up the share ``mass`` of its sum; stored zeros are dropped.

    Equal entries are ranked by column. Rows are summed one by one, so the result for a row does not depend on the others.
    """
    kept = [np.empty(0, dtype=np.int64)]
    for start, end in zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist()):
        order = start + np.lexsort((matrix.indices[start:end], -matrix.data[start:end].astype(np.float64)))
        sums = np.cumsum(matrix.data[order], dtype=np.float64)
        if end > start and sums[-1] > 0:
            kept.append(np.sort(order[: np.searchsorted(sums, mass * sums[-1]) + 1]))
    return _keep(matrix, np.concatenate(kept))


def to_vectors(matrix: csr_matrix, vocabulary: Sequence[str], contract: Contract | None = None) -> list[ImpactVector]:
    """Turn each row into a dict with the heaviest term first; integers stay integers.

    Raises:
        DataError: A column of the matrix is out of range.
    """
    check_matrix(matrix)
    vectors = []
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:]):
        order = start + np.lexsort((matrix.indices[start:end], -matrix.data[start:end]))
        terms = (vocabulary[column] for column in matrix.indices[order].tolist())
        vectors.append(ImpactVector(zip(terms, matrix.data[order].tolist()), contract))
    return vectors


def _keep(matrix: csr_matrix, entries: np.ndarray) -> csr_matrix:
    indptr = np.searchsorted(entries, matrix.indptr)
    return csr_matrix((matrix.data[entries], matrix.indices[entries], indptr), shape=matrix.shape)
