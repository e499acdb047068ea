"""The LM head: maxima of its logits over positions, with gradients for training, and sparse for inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

# Logits in memory at the same time; our choice (measured: on a CPU, 2**18 to 2**21 are equally fast because they stay in the
# caches; elsewhere, where each block costs kernel launches, 128 MiB of bfloat16 are as fast as more).
_LOGITS_IN_FLIGHT = {"cpu": 2**20}
_LOGITS_IN_FLIGHT_ELSEWHERE = 2**26
# A block has a multiple of this number of rows of the head; our choice (measured: products with an odd number of rows take 6 %
# longer on a CPU, and four times as long on an H200).
_ALIGNED = {"cpu": 16}
_ALIGNED_ELSEWHERE = 256

#: The function that an architecture applies to the logits of some terms (bias, scale, cap), non-decreasing in the logit.
Finish = Callable[[Tensor, "slice | Tensor"], Tensor]


class Entries(NamedTuple):
    """Entries of a matrix [texts, tokens] as three tensors of the same length, sorted by row and then by token."""

    rows: Tensor
    tokens: Tensor
    logits: Tensor


def rows_in_block(positions: int, device: str) -> int:
    """Return the number of rows of the head in a block, for ``positions`` hidden states on a type of device."""
    aligned = _ALIGNED.get(device, _ALIGNED_ELSEWHERE)
    rows = _LOGITS_IN_FLIGHT.get(device, _LOGITS_IN_FLIGHT_ELSEWHERE) // positions
    return max(aligned, rows // aligned * aligned)


def blocks(tokens: int, states: Tensor) -> Iterator[slice]:
    """Divide a vocabulary into blocks whose logits for ``states`` [texts, positions, width] fit into the caches."""
    size = rows_in_block(states.shape[0] * states.shape[1], states.device.type)
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def max_logits(states: Tensor, weight: Tensor) -> Tensor:
    """Compute the maximum over positions of ``states @ weight.T``.

    Args:
        states: Hidden states of each text's pooled positions, [texts, positions, width].
        weight: The LM head, [tokens, width].

    Returns:
        float32 [texts, tokens].
    """
    return _maxima(states, weight, with_winners=False)[0]


def max_pool_logits(hidden: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Compute ``max over positions of (hidden @ weight.T)``, the inner part of the paper's Eq. 1.

    The product is computed in blocks of the vocabulary, so memory is O(batch x vocabulary), not O(batch x length x vocabulary).
    The gradient equals that of the naive computation: it flows only through the position of each maximum. Its time is
    proportional to the number of non-zero entries of the incoming gradient.

    Args:
        hidden: Last hidden states, [batch, length, width].
        weight: The LM head, [vocabulary, width].
        mask: Bool [batch, length], true for pooled positions.

    Returns:
        float32 [batch, vocabulary]; minus infinity in rows without a pooled position.
    """
    if not mask.any():
        return hidden.new_full((len(hidden), len(weight)), float("-inf"), dtype=torch.float32)
    pooled: Tensor = _MaxPool.apply(hidden, weight, _pooled_positions(mask))
    return pooled.masked_fill(~mask.any(dim=1, keepdim=True), float("-inf"))


def activate(pooled: Tensor) -> Tensor:
    """Compute the weights ``log(1 + ReLU(pooled))`` of Eq. 1, accurately near 0 (log1p)."""
    return torch.log1p(torch.relu(pooled))


def winning_positions(hidden: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Find the positions of the maxima of ``max_pool_logits``, int64 [batch, vocabulary]; 0 in rows without a position."""
    positions = _pooled_positions(mask)
    _, winners = _maxima(_gather(hidden, positions), weight, with_winners=True)
    assert winners is not None
    return positions.gather(1, winners.long())


def pooled_states(hidden: Tensor, mask: Tensor, padded: Callable[[int], int] = int) -> tuple[Tensor, Tensor]:
    """Gather the hidden states that are pooled.

    Args:
        hidden: Last hidden states, [batch, length, width].
        mask: Bool [batch, length], true for pooled positions.
        padded: Function from the largest number of pooled positions to the number of positions to return, at most ``length``.

    Returns:
        Rows of the batch that have a pooled position, int64 [texts]; and their states [texts, positions, width]. A text with
        fewer positions than others repeats its first, which changes no maximum.
    """
    rows = mask.any(dim=1).nonzero()[:, 0]
    if mask.all():
        return rows, hidden
    return rows, hidden[rows[:, None], _pooled_positions(mask[rows], padded)] if len(rows) else hidden[:0]


def streamed_entries(states: Tensor, weight: Tensor, threshold: float, finish: Finish) -> Entries:
    """Find the logits above ``threshold`` by computing all logits, block by block of the vocabulary.

    Args:
        states: Hidden states of each text's pooled positions, [texts, positions, width].
        weight: The LM head, [tokens, width].
        threshold: Threshold of finished logits. NaN counts as above it, so that it is not lost.
        finish: Function that is applied to the product.
    """
    return entries_above(threshold, finish(max_logits(states, weight), slice(None)))


def entries_above(threshold: float, logits: Tensor) -> Entries:
    """Find the logits [texts, tokens] above ``threshold``, and NaN."""
    rows, tokens = (~(logits <= threshold)).nonzero(as_tuple=True)
    return Entries(rows, tokens, logits[rows, tokens])


def heaviest(rows: Tensor, weights: Tensor, k: int) -> Tensor:
    """Find the ``k`` largest weights of each row, given the ascending ``rows`` of all weights.

    Of equal weights, the first are kept; NaN counts as the largest.

    Returns:
        Positions of the entries to keep, ascending.
    """
    order = weights.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    starts = torch.searchsorted(rows, rows)
    rank = torch.arange(len(rows), device=rows.device) - starts
    return order[rank < k].sort().values


def _maxima(states: Tensor, weight: Tensor, *, with_winners: bool) -> tuple[Tensor, Tensor | None]:
    """Compute maxima over positions, float32 [texts, tokens], and optionally the position of each, int32 [texts, tokens]."""
    batch, length, width = states.shape
    flat, over_neighbours = states.reshape(batch * length, width), _over_neighbours(states, with_winners)
    pooled = torch.empty(batch, len(weight), dtype=torch.float32, device=states.device)
    winners = torch.empty_like(pooled, dtype=torch.int32) if with_winners else None
    for part in blocks(len(weight), states):
        head = weight[part].to(flat.dtype)
        if over_neighbours:
            logits, dim = linear(head, flat).view(-1, batch, length), 2
        else:
            logits, dim = linear(flat, head).view(batch, length, -1), 1
        if winners is None:
            largest = logits.amax(dim)
        else:
            largest, places = logits.max(dim)
            winners[:, part] = places.T if over_neighbours else places
        pooled[:, part] = largest.T if over_neighbours else largest
        del logits  # before the next block is computed
    return pooled, winners


def _over_neighbours(states: Tensor, with_winners: bool) -> bool:
    """Return whether maxima run over neighbours in memory.

    Our choice (measured: faster on a CPU, except for bfloat16 without winners).
    """
    return states.device.type == "cpu" and (states.dtype == torch.float32 or with_winners)


def _pooled_positions(mask: Tensor, padded: Callable[[int], int] = int) -> Tensor:
    """Return the true positions of each row [batch, padded largest count]; rows with fewer repeat their first."""
    counts = mask.sum(dim=1, keepdim=True)
    order = mask.int().argsort(dim=1, descending=True, stable=True)[:, : padded(max(1, int(counts.max())))]
    filled = torch.arange(order.shape[1], device=mask.device) < counts
    return torch.where(filled, order, order[:, :1])


def _gather(hidden: Tensor, positions: Tensor) -> Tensor:
    """Gather the states [batch, count, width] of each row's positions [batch, count]."""
    return hidden[torch.arange(len(hidden), device=hidden.device)[:, None], positions]


class _MaxPool(torch.autograd.Function):
    """The product and maximum in blocks, with a backward pass through the arg-max positions only."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
        pooled, winners = _maxima(_gather(hidden, positions), weight, with_winners=any(ctx.needs_input_grad))
        if winners is not None:
            ctx.save_for_backward(hidden, weight, positions, winners)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight, positions, winners = ctx.saved_tensors
        batch, length, width = hidden.shape
        row, term = gradient.nonzero(as_tuple=True)
        state = row * length + positions[row, winners[row, term].long()]
        terms, compact = torch.unique(term, return_inverse=True)
        # A sparse matrix [states, active terms] with the gradient of the few logits that are maxima and active.
        sparse = torch.sparse_coo_tensor(
            torch.stack([state, compact]), gradient[row, term].float(), (batch * length, len(terms)), check_invariants=False
        )
        hidden_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            product = torch.sparse.mm(sparse, weight[terms].float())
            hidden_gradient = product.view(batch, length, width).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            weight_gradient = torch.zeros_like(weight)
            states = hidden.reshape(batch * length, width).float()
            weight_gradient[terms] = torch.sparse.mm(sparse.t(), states).to(weight.dtype)
        return hidden_gradient, weight_gradient, None
