"""Mixing of channels by Hadamard matrices, so that a few large ones do not set the scale by which all are rounded."""

from __future__ import annotations

import torch
from torch import Tensor


def mixed(rows: Tensor) -> Tensor:
    """Multiply by an orthogonal matrix: products of two mixed rows are those of the rows.

    The matrix is a Kronecker product of Hadamard matrices of order 16 and 4 over groups of channels, as many as the width has
    factors; a width that 4 does not divide is left as it is. Its entries are signed powers of two, so only sums are rounded:
    ``rounding`` bounds that.

    Args:
        rows: float32 [..., width].

    Returns:
        float32 of the same shape.
    """
    width = rows.shape[-1]
    flat = rows.reshape(-1, width)
    for order in _orders(width):
        # Transposed, so that the next factor reaches across the groups of this one. Not by ``linear``, for which
        # oneDNN would keep a compiled product for each number of rows.
        flat = (flat.view(len(flat), -1, order) @ _hadamard(order)).transpose(1, 2).reshape(-1, width)
    return flat.view(rows.shape)


def rounding(width: int) -> float:
    """Bound the rounding error of ``mixed``: norm of the error, relative to the norm of the row.

    A sum of n terms is off by at most ``(n - 1) 2^-24`` times the sum of their magnitudes, which for a row of magnitudes is
    at most ``sqrt(n)`` times as long as the row.
    """
    return sum(order**1.5 for order in _orders(width)) * 2.0**-24


def _orders(width: int) -> list[int]:
    """Orders of the factors: their product is the largest power of 4 that divides the width, so that its root is exact."""
    orders = []
    for order in (16, 4):
        while width % order == 0:
            width //= order
            orders.append(order)
    return orders


def _hadamard(order: int) -> Tensor:
    """Build the normalised matrix by Sylvester's doubling."""
    matrix = torch.ones(1, 1)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix / order**0.5
