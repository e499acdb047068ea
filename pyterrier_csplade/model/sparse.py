"""From logits to sparse vectors: activation, limits and impacts are computed on the model's device."""

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

# No float32 weight reaches this value, because a weight is log(1 + x).
_LARGEST_WEIGHT = 80.0


@dataclass(frozen=True)
class Wanted:
    """The weights of a text to keep, and their form.

    Attributes:
        min_weight: Smallest weight to keep.
        top_k: Number of heaviest weights to keep; ties are broken by the column. None keeps all.
        quantizer: Converts weights to int32 impacts; None keeps float32 weights.
    """

    min_weight: float = 0.0
    top_k: int | None = None
    quantizer: Quantizer | None = None

    def __post_init__(self) -> None:
        check_top_k(self.top_k)
        check_min_weight(self.min_weight)
        if not isinstance(self.quantizer, (Quantizer, type(None))):
            raise ValueError(f"quantizer must be a Quantizer, or None for float weights, found {self.quantizer!r:.60}")

    @property
    def least(self) -> float:
        """The smallest weight that is kept."""
        return max(0.0, self.min_weight, self.quantizer.smallest_weight if self.quantizer else 0.0)

    @property
    def threshold(self) -> float:
        """A logit slightly below the logits of all weights to keep, so that rounding in the activation loses none."""
        return math.expm1(min(self.least, _LARGEST_WEIGHT) * (1 - 1e-6))

    def of(self, weights: csr_matrix) -> csr_matrix:
        """Return what is kept of weights that were computed elsewhere; the quantizer does not apply."""
        kept = weights.multiply(weights >= self.min_weight).tocsr() if self.min_weight else weights
        kept.eliminate_zeros()
        return kept if self.top_k is None else top_k(kept, self.top_k)

    def nothing(self, texts: int, terms: int) -> csr_matrix:
        """Return a matrix [texts, terms] without entries."""
        return csr_matrix((texts, terms), dtype=np.float32 if self.quantizer is None else np.int32)


#: All weights.
ALL = Wanted()


def sparse_vectors(
    entries: Entries,
    column_of_token: Tensor,
    wanted: Wanted,
    shape: tuple[int, int],
    names: Sequence[str],
    *,
    folded: bool = False,
) -> csr_matrix:
    """Convert logits to vectors. Only the vectors are copied from the device.

    Args:
        entries: All finished logits above ``wanted.threshold``, and possibly others.
        column_of_token: Column of each token, int64, ascending unless columns are folded; -1 if the token has none.
        wanted: The weights to keep.
        shape: Number of texts and of columns.
        names: Names of the texts in error messages.
        folded: Whether several tokens may share a column, which gets their largest weight.

    Returns:
        The quantizer's int32 impacts without zeros, or float32 weights without quantizer.

    Raises:
        DataError: With a quantizer, a weight is not finite or its impact is too large; the message names the text.
    """
    columns, weights = column_of_token[entries.tokens], activate(entries.logits)
    kept = (columns >= 0) & ~(weights < wanted.least)
    rows, columns, weights = entries.rows[kept], columns[kept], weights[kept]
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
        return wanted.quantizer(matrix, names)  # also raises an error
    kept = impacts > 0
    return _compress(rows[kept], columns[kept], impacts[kept], shape)


def _largest(rows: Tensor, columns: Tensor, weights: Tensor, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the largest weight of each row and column, in this order; NaN counts as the largest."""
    places, entry = torch.unique(rows * terms + columns, return_inverse=True)
    largest = weights.new_zeros(len(places)).scatter_reduce(0, entry, weights, "amax", include_self=False)
    return places // terms, places % terms, largest


def to_impacts(weights: Tensor, quantizer: Quantizer) -> Tensor | None:
    """Compute the impacts of float32 weights that are not negative, exactly as ``quantizer`` does.

    Returns:
        int32 of the same shape; None if the quantizer would refuse a weight.
    """
    exact = (weights.cpu() if weights.device.type == "mps" else weights).double()  # Metal has no float64
    impacts = exact.mul_(quantizer.scale).add_(0.5).floor_()
    return impacts.int().to(weights.device) if (impacts <= MAX_IMPACT).all() else None


def in_order(blocks: Sequence[tuple[Sequence[int], csr_matrix]], like: csr_matrix) -> csr_matrix:
    """Combine the rows of matrices, copying each entry once.

    Args:
        blocks: Pairs of row numbers of the result and a matrix of these rows, with the columns of ``like``.
        like: A matrix with the shape and dtype of the result. Rows without a block stay empty.
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
    """Copy entries that are sorted by row to the host, as a CSR matrix."""
    starts = torch.searchsorted(rows, torch.arange(shape[0] + 1, device=rows.device), out_int32=True)
    return csr_matrix(tuple(tensor.cpu().numpy() for tensor in (values, columns, starts)), shape=shape)
