"""A screen before the LM head: an int8 product gives an upper bound of every logit, so that few are computed exactly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from .head import Entries, Finish, blocks, streamed_entries
from .torch_internals import int8_product

_INT8_MAX = 127

# Added to norms, because the squares of float32 numbers below 1e-19 are 0.
_UNDERFLOW = 1e-16

# Largest share of the logits that are computed selectively; our choice (measured: above it, computing all costs less).
_LARGEST_SHARE = 0.125

# Surviving terms of a text that are computed together; our choice (not measured).
_CHOSEN = 128

# Numbers in the hidden states that are rounded together, 4 MiB of float32; our choice (not measured).
_COPIED = 2**20


class Screen:
    """The LM head in int8 with one scale per token, and the norms for upper bounds of the exact logits.

    For a hidden state h and a row w of the head, rounded to h' and w', Cauchy-Schwarz gives ``h.w <= h'.w' + |h - h'| |w| +
    |h'| |w - w'|``. Rounding in the exact product adds at most ``width x 2^-24 |h| |w|``. The bound holds for every term, so a
    term whose bound is below the threshold cannot reach it. Both factors are mixed by an orthogonal matrix before they are
    rounded: hidden states have a few channels that are many times as large as the others, which would make the rounding coarse
    and the bounds loose.
    """

    def __init__(self, weight: Tensor) -> None:
        """Round a head, which takes a quarter of the memory of its float32 weights.

        Args:
            weight: The LM head, [tokens, width], on a CPU.
        """
        self.weight = weight
        self._rounded = torch.empty(weight.shape, dtype=torch.int8)
        self._scales, self._norms, self._errors = (torch.empty(len(weight)) for _ in range(3))
        for start in range(0, len(weight), 4096):  # in parts, to avoid a float32 copy of the whole head
            part = slice(start, start + 4096)
            rows = mixed(weight[part].float())
            self._rounded[part], scales = round_to_int8(rows, rows.abs().amax(dim=1, keepdim=True))
            self._scales[part] = scales[:, 0]
            self._norms[part] = rows.norm(dim=1) + _UNDERFLOW
            self._errors[part] = (rows - self._rounded[part] * scales).norm(dim=1) + _UNDERFLOW

    def bounds(self, states: Tensor) -> Tensor:
        """Compute upper bounds of the maxima of the logits over positions.

        Args:
            states: Hidden states of each text's pooled positions, [texts, positions, width].

        Returns:
            float32 [texts, tokens].
        """
        rounded = _Rounded(states)
        return torch.cat([rounded.bounds(self, part) for part in blocks(len(self.weight), states)], dim=1)

    def entries(self, states: Tensor, threshold: float, finish: Finish) -> Entries:
        """Find the logits above ``threshold``. The result equals that of ``streamed_entries`` up to the order of sums."""
        survivors = self._survivors(states, threshold, finish)
        if survivors is None:
            return streamed_entries(states, self.weight, threshold, finish)
        rows, tokens = survivors
        counts = torch.bincount(rows, minlength=len(states)).tolist()
        parts = zip(states, tokens.split_with_sizes(counts))
        logits = finish(torch.cat([self._exact(text, chosen) for text, chosen in parts]), tokens)
        kept = ~(logits <= threshold)
        return Entries(rows[kept], tokens[kept], logits[kept])

    def _exact(self, text: Tensor, chosen: Tensor) -> Tensor:
        """Compute the maxima of the logits of some tokens over a text's positions [positions, width], float32 [tokens]."""
        # ``linear`` adds in the same order as in the streamed head. The number of terms is constant, because oneDNN would keep
        # a compiled product for every number of survivors.
        filled = torch.cat([chosen, chosen[:1].expand(-len(chosen) % _CHOSEN)])
        heads = (self.weight.index_select(0, some).to(text.dtype) for some in torch.split(filled, _CHOSEN))
        parts = [linear(head, text).amax(dim=1) for head in heads]
        return torch.cat(parts)[: len(chosen)].float()

    def _survivors(self, states: Tensor, threshold: float, finish: Finish) -> tuple[Tensor, Tensor] | None:
        """Return the texts (sorted) and tokens whose bounds are above the threshold; None as soon as there are too many."""
        rounded, room = _Rounded(states), _LARGEST_SHARE * len(states) * len(self.weight)
        survives = torch.empty(len(states), len(self.weight), dtype=torch.bool)
        for part in blocks(len(self.weight), states):
            survives[:, part] = ~(finish(rounded.bounds(self, part), part) <= threshold)
            room -= int(survives[:, part].count_nonzero())
            if room < 0:
                return None
        rows, tokens = survives.nonzero(as_tuple=True)
        return rows, tokens


class _Rounded:
    """The hidden states of a batch in int8, with one scale per text, so that the maximum over positions compares integers."""

    def __init__(self, states: Tensor) -> None:
        batch, length, width = self.shape = states.shape
        self.values = torch.empty(self.shape, dtype=torch.int8)
        self.scales, self.errors, self.norms = (torch.empty(batch) for _ in range(3))
        step = max(1, _COPIED // (length * width))
        for start in range(0, batch, step):
            part = slice(start, start + step)
            exact = mixed(states[part].float())
            self.values[part], scales = round_to_int8(exact, exact.abs().amax(dim=(1, 2), keepdim=True))
            near = self.values[part] * scales
            self.scales[part] = scales[:, 0, 0]
            self.norms[part] = near.norm(dim=2).amax(dim=1) + _UNDERFLOW
            self.errors[part] = (exact - near).norm(dim=2).amax(dim=1) + _UNDERFLOW
        # The rounding errors of the exact product (inputs of its dtype, sums in float32), its result, the bound, and the mixing
        # of both factors.
        self.slack = (2 * width + 16) * 2.0**-24 + 2 * rounding(width)
        self.relative = torch.finfo(states.dtype).eps
        # The products of all parts share one buffer, because separate buffers would fragment the memory.
        self._product = torch.empty(0, dtype=torch.int32)

    def bounds(self, head: Screen, part: slice) -> Tensor:
        batch, length, width = self.shape
        size = batch * length * (part.stop - part.start)
        if len(self._product) < size:
            self._product = torch.empty(size, dtype=torch.int32)
        product = self._product[:size].view(batch * length, -1)
        int8_product(self.values.view(batch * length, width), head._rounded[part].T, out=product)
        near = product.view(batch, length, -1).amax(dim=1) * self.scales.view(-1, 1) * head._scales[part]
        norms, errors = head._norms[part], head._errors[part]
        near += torch.outer(self.errors + self.slack * (self.norms + self.errors), norms)
        near += torch.outer(self.norms, errors)
        return near.add_(near.abs(), alpha=self.relative)


def round_to_int8(exact: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Round to multiples of scales that make ``largest`` 127; return the int8 multiples and the scales."""
    scales = (largest / _INT8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    return (exact / scales).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8), scales


def mixed(rows: Tensor) -> Tensor:
    """Multiply rows by an orthogonal matrix, which preserves their dot products.

    The matrix is a Kronecker product of Hadamard matrices of order 16 and 4, one for each such factor of the width. If 4 does
    not divide the width, rows stay as they are. The entries are signed powers of two, so only sums are rounded; ``rounding``
    bounds this error.

    Args:
        rows: float32 [..., width].

    Returns:
        float32 of the same shape.
    """
    width = rows.shape[-1]
    flat = rows.reshape(-1, width)
    for order in _orders(width):
        # The transposition makes the next factor combine the groups of this one. ``linear`` is not used, because oneDNN would
        # keep a compiled product for each number of rows.
        flat = (flat.view(len(flat), -1, order) @ _hadamard(order)).transpose(1, 2).reshape(-1, width)
    return flat.view(rows.shape)


def rounding(width: int) -> float:
    """Return an upper bound of the rounding error of ``mixed``, as the norm of the error relative to the norm of the row.

    The error of a sum of n terms is at most ``(n - 1) 2^-24`` times the sum of their magnitudes, which is at most ``sqrt(n)``
    times the norm of the row.
    """
    return sum(order**1.5 for order in _orders(width)) * 2.0**-24


def _orders(width: int) -> list[int]:
    """Return the orders of the factors. Their product is the largest power of 4 in the width, so its root is exact."""
    orders = []
    for order in (16, 4):
        while width % order == 0:
            width //= order
            orders.append(order)
    return orders


def _hadamard(order: int) -> Tensor:
    """Build the normalised Hadamard matrix by Sylvester's construction."""
    matrix = torch.ones(1, 1)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix / order**0.5
