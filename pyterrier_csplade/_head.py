"""The LM head at inference: which terms of which texts reach a threshold, and their logits, without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
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
