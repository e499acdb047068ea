"""From logits to sparse vectors, on the device that computed them: activation, limits and impacts; compressed rows leave it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from pyterrier_csplade.vectors.checks import check_finite, check_min_weight, check_top_k
from pyterrier_csplade.vectors.impacts import MAX_IMPACT, Quantizer, top_k

from .head import Entries, activate, heaviest

# No weight is larger: it is below the logarithm of the largest float32.
_LARGEST_WEIGHT = 80.0


@dataclass(frozen=True)
class Wanted:
    """Which weights of a text are kept, and in which form.

    Attributes:
        min_weight: Weights below it are left out.
        top_k: Heaviest weights that are kept, of equal ones those in the first columns; None keeps all.
        quantizer: Makes int32 impacts; None leaves float32 weights.
    """

    min_weight: float = 0.0
    top_k: int | None = None
    quantizer: Quantizer | None = None

    def __post_init__(self) -> None:
        check_top_k(self.top_k)
        check_min_weight(self.min_weight)

    @property
    def least(self) -> float:
        """The weight below which nothing is kept."""
        return max(0.0, self.min_weight, self.quantizer.smallest_weight if self.quantizer else 0.0)

    @property
    def threshold(self) -> float:
        """A logit slightly below the logits of all wanted weights, so that rounding in the activation loses no weight."""
        return math.expm1(min(self.least, _LARGEST_WEIGHT) * (1 - 1e-6))

    def of(self, weights: csr_matrix) -> csr_matrix:
        """Return what is kept of weights that were computed elsewhere; the quantizer does not apply."""
        kept = weights.multiply(weights >= self.min_weight).tocsr() if self.min_weight else weights
        kept.eliminate_zeros()
        return kept if self.top_k is None else top_k(kept, self.top_k)

    def nothing(self, texts: int, terms: int) -> csr_matrix:
        """The vectors [texts, terms] of texts that have no term."""
        return csr_matrix((texts, terms), dtype=np.float32 if self.quantizer is None else np.int32)


#: All weights.
ALL = Wanted()


def sparse_vectors(
    found: Entries,
    column_of_token: Tensor,
    wanted: Wanted,
    shape: tuple[int, int],
    names: Sequence[str],
    *,
    folded: bool = False,
) -> csr_matrix:
    """Turn logits into vectors; only the vectors leave the device.

    Args:
        found: All finished logits above ``wanted.threshold``, and maybe others.
        column_of_token: Column of each token, int64, ascending unless columns are folded; -1 where it has none.
        wanted: Which weights are kept.
        shape: Texts and columns.
        names: Names of the texts in error messages.
        folded: Whether several tokens may have the same column, which gets their largest weight.

    Returns:
        int32 impacts as the quantizer makes them of float32 weights, without zeros; or these weights.

    Raises:
        DataError: A weight is not finite, or its impact too large, where impacts are wanted; names the text.
    """
    columns, weights = column_of_token[found.tokens], activate(found.logits)
    kept = (columns >= 0) & ~(weights < wanted.least)
    rows, columns, weights = found.rows[kept], columns[kept], weights[kept]
    if folded:
        rows, columns, weights = _largest(rows, columns, weights, shape[1])
    columns = columns.int()
    if wanted.top_k is not None:
        kept = heaviest(rows, weights, wanted.top_k)
        rows, columns, weights = rows[kept], columns[kept], weights[kept]
    if wanted.quantizer is None:
        return _compress(rows, columns, weights, shape)
    impacts = to_impacts(weights, wanted.quantizer)
    if impacts is None:
        matrix = _compress(rows, columns, weights, shape)
        check_finite(matrix, names)
        return wanted.quantizer(matrix, names)  # raises, too
    kept = impacts > 0
    return _compress(rows[kept], columns[kept], impacts[kept], shape)


def _largest(rows: Tensor, columns: Tensor, weights: Tensor, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the largest weight of each place, by row and, within it, by column; NaN counts as the largest."""
    places, entry = torch.unique(rows * terms + columns, return_inverse=True)
    largest = weights.new_zeros(len(places)).scatter_reduce(0, entry, weights, "amax", include_self=False)
    return places // terms, places % terms, largest


def to_impacts(weights: Tensor, quantizer: Quantizer) -> Tensor | None:
    """Compute the impacts that ``quantizer`` makes of float32 weights from 0, to the bit.

    Returns:
        int32 of the same shape; None if it refuses a weight.
    """
    exact = (weights.cpu() if weights.device.type == "mps" else weights).double()  # Metal has no float64
    impacts = exact.mul_(quantizer.scale).add_(0.5).floor_()
    return impacts.int().to(weights.device) if (impacts <= MAX_IMPACT).all() else None


def in_order(blocks: Sequence[tuple[Sequence[int], csr_matrix]], like: csr_matrix) -> csr_matrix:
    """Combine the rows of matrices with one copy of their entries.

    Args:
        blocks: Pairs of rows of the result and a matrix that holds them, with the columns of ``like``.
        like: A matrix of the result's shape and type; the rows that no block has stay empty.
    """
    counts = np.zeros(like.shape[0] + 1, dtype=np.int64)
    for rows, block in blocks:
        counts[1 + np.asarray(rows)] = np.diff(block.indptr)
    starts = counts.cumsum()
    columns, values = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=like.dtype)
    for rows, block in blocks:
        places = np.arange(block.nnz) + np.repeat(starts[rows] - block.indptr[:-1], np.diff(block.indptr))
        columns[places], values[places] = block.indices, block.data
    return csr_matrix((values, columns, starts), shape=like.shape)


def _compress(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> csr_matrix:
    """Copy entries, sorted by row, to the host as compressed rows."""
    starts = torch.searchsorted(rows, torch.arange(shape[0] + 1, device=rows.device), out_int32=True)
    return csr_matrix(tuple(tensor.cpu().numpy() for tensor in (values, columns, starts)), shape=shape)
