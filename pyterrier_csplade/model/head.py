"""The LM head at inference: which terms of which texts reach a threshold, and their logits, without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

# Logits in flight. Ours, measured: on a CPU blocks of 2**18 to 2**21 logits are equally fast (they stay in the caches), larger
# ones are not faster; on an accelerator, where each block costs launches, 128 MiB of bfloat16.
_LOGITS_IN_FLIGHT = {"cpu": 2**20}
_LOGITS_IN_FLIGHT_ELSEWHERE = 2**26
# Tokens of a block are a multiple of this: products of an odd number take 6 % longer on a CPU, four times as long on an H200.
_ALIGNED = {"cpu": 16}
_ALIGNED_ELSEWHERE = 256

#: What an architecture does with the logits of some terms (bias, scale, cap): non-decreasing in the logit.
Finish = Callable[[Tensor, "slice | Tensor"], Tensor]


class Entries(NamedTuple):
    """Entries of a matrix [texts, tokens]: three tensors of the same length, by row and, within it, by token."""

    rows: Tensor
    tokens: Tensor
    logits: Tensor


def blocks(tokens: int, states: Tensor) -> Iterator[slice]:
    """Split a vocabulary of ``tokens`` so that the logits of all ``states`` [texts, positions, width] for a part fit caches."""
    in_flight = _LOGITS_IN_FLIGHT.get(states.device.type, _LOGITS_IN_FLIGHT_ELSEWHERE)
    size = in_flight // (states.shape[0] * states.shape[1])
    aligned = _ALIGNED.get(states.device.type, _ALIGNED_ELSEWHERE)
    size = max(aligned, size // aligned * aligned)
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def max_logits(states: Tensor, weight: Tensor, *, winners: Tensor | None = None) -> Tensor:
    """Compute the maximum over positions of ``states @ weight.T``.

    Args:
        states: Hidden states of each text's pooled positions, [texts, positions, width].
        weight: The LM head, [tokens, width].
        winners: int32 [texts, tokens], is written: the position of each maximum; None if nobody asks for it.

    Returns:
        float32 [texts, tokens].
    """
    batch, length, width = states.shape
    flat = states.reshape(batch * length, width)
    pooled = torch.empty(batch, len(weight), dtype=torch.float32, device=states.device)
    for part in blocks(len(weight), states):
        head = weight[part].to(flat.dtype)
        if flat.dtype == torch.float32 and flat.device.type == "cpu" and winners is None:
            # Measured: the maximum over neighbours in memory is the faster order for float32 on a CPU, the slower for bfloat16.
            pooled[:, part] = linear(head, flat).view(-1, batch, length).amax(dim=2).T
        else:
            logits = linear(flat, head).view(batch, length, -1)
            if winners is None:
                pooled[:, part] = logits.amax(dim=1)
            else:
                pooled[:, part], winners[:, part] = logits.max(dim=1)
            del logits  # or the next block would be computed beside this one
    return pooled


def streamed_entries(states: Tensor, weight: Tensor, threshold: float, finish: Finish) -> Entries:
    """Find the logits above ``threshold`` by working all of them out, one block of the vocabulary at a time.

    Args:
        states: Hidden states of each text's pooled positions, [texts, positions, width].
        weight: The LM head, [tokens, width].
        threshold: Of finished logits. What is not a number counts as above it, so that it is not lost.
        finish: What follows the product.
    """
    return entries_above(threshold, finish(max_logits(states, weight), slice(None)))


def entries_above(threshold: float, logits: Tensor) -> Entries:
    """Find the logits [texts, tokens] above ``threshold``, and what is not a number."""
    rows, tokens = (~(logits <= threshold)).nonzero(as_tuple=True)
    return Entries(rows, tokens, logits[rows, tokens])


def heaviest(rows: Tensor, weights: Tensor, k: int) -> Tensor:
    """Find the ``k`` largest weights of each row, of equal ones the first; what is not a number counts as the largest.

    Args:
        rows: Of the entries, ascending.
        weights: Of the entries.
        k: How many to keep.

    Returns:
        Positions of the entries to keep, ascending.
    """
    order = weights.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    starts = torch.searchsorted(rows, rows)
    rank = torch.arange(len(rows), device=rows.device) - starts
    return order[rank < k].sort().values


# Logits in flight on a CPU: 32 MiB of float32, about what caches hold. Ours, measured: larger blocks are no faster.
_POOLING_LOGITS = 2**23


def max_pool_logits(hidden: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """Compute ``max over positions of (hidden @ weight.T)``, the inner part of the paper's Eq. 1.

    The vocabulary is worked through in blocks, so that memory is O(batch x vocabulary), not O(batch x length x vocabulary).
    The gradient is that of the naive graph: it flows through the position of each maximum only, and costs time in proportion
    to the entries of the incoming gradient that are not 0.

    Args:
        hidden: Last hidden states, [batch, length, width].
        weight: The LM head, [vocabulary, width].
        mask: Bool [batch, length], true where a position takes part.

    Returns:
        float32 [batch, vocabulary]; minus infinity in rows without a position.
    """
    if not mask.any():
        return hidden.new_full((len(hidden), len(weight)), float("-inf"), dtype=torch.float32)
    pooled: Tensor = _MaxPool.apply(hidden, weight, _pooled_positions(mask))
    return pooled.masked_fill(~mask.any(dim=1, keepdim=True), float("-inf"))


def activate(pooled: Tensor) -> Tensor:
    """Compute the weights ``log(1 + ReLU(pooled))`` of Eq. 1, exact near 0 (log1p)."""
    return torch.log1p(torch.relu(pooled))


def pooled_states(hidden: Tensor, mask: Tensor, padded: Callable[[int], int] = int) -> tuple[Tensor, Tensor]:
    """Gather the hidden states that are pooled.

    Args:
        hidden: Last hidden states, [batch, length, width].
        mask: Bool [batch, length], true where a position takes part.
        padded: How many positions to return where the text with the most has so many; at most ``length``.

    Returns:
        Rows of the batch that have such a position, int64 [texts]; and their states [texts, positions, width], where a text
        with fewer positions than others has its first once more, which changes no maximum.
    """
    rows = mask.any(dim=1).nonzero()[:, 0]
    if mask.all():
        return rows, hidden
    return rows, hidden[rows[:, None], _pooled_positions(mask[rows], padded)] if len(rows) else hidden[:0]


def _pooled_positions(mask: Tensor, padded: Callable[[int], int] = int) -> Tensor:
    """Indices [batch, padded largest count] of each row's true positions; after them its first again, so maxima stay."""
    counts = mask.sum(dim=1, keepdim=True)
    order = mask.int().argsort(dim=1, descending=True, stable=True)[:, : padded(int(counts.max()))]
    filled = torch.arange(order.shape[1], device=mask.device) < counts
    return torch.where(filled, order, order[:, :1])


class _MaxPool(torch.autograd.Function):
    """The blocked product and maximum, with a backward pass through the arg-max positions only."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        states = hidden[rows, positions]
        with_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        if hidden.device.type != "cpu":
            pooled, winners = _maxima_over_rows(states, weight, with_winners=with_gradient)
        else:
            pooled, winners = _maxima_over_neighbours(states, weight, with_winners=with_gradient)
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
        # A sparse matrix [states, active terms] holds the gradient of the few logits that won and are active.
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


def _maxima_over_rows(states: Tensor, weight: Tensor, *, with_winners: bool) -> tuple[Tensor, Tensor | None]:
    """Compute the maxima over positions and, on request, whose they are, both [texts, tokens]."""
    shape = len(states), len(weight)
    winners = torch.empty(shape, dtype=torch.int32, device=states.device) if with_winners else None
    return max_logits(states, weight, winners=winners), winners


def _maxima_over_neighbours(states: Tensor, weight: Tensor, *, with_winners: bool) -> tuple[Tensor, Tensor | None]:
    """As ``_maxima_over_rows``; the vocabulary leads, so that maxima run over neighbours in memory: faster on a CPU."""
    batch, length, width = states.shape
    pooled = torch.empty(len(weight), batch, dtype=torch.float32, device=states.device)
    winners = torch.empty(len(weight), batch, dtype=torch.int32, device=states.device) if with_winners else None
    columns = states.reshape(batch * length, width).T
    block = max(1, _POOLING_LOGITS // (batch * length))
    for start in range(0, len(weight), block):
        part = slice(start, start + block)
        logits = (weight[part].to(columns.dtype) @ columns).view(-1, batch, length)
        if winners is None:
            pooled[part] = logits.amax(dim=2)
        else:
            pooled[part], winners[part] = logits.max(dim=2)
        del logits  # or the next block would be computed beside this one
    return pooled.T, None if winners is None else winners.T
