"""The maximum of logits over a text's positions as a Triton kernel, at the speed of the device's memory.

PyTorch's own reduction of that axis takes twice as long as the product that makes the logits (H200, bfloat16, see
``benchmarks/head.py``). Ours; plain PyTorch stays the reference, and takes over where Triton does not work.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tile of the reduction: positions and tokens of the vocabulary. Ours.
_POSITIONS, _TOKENS = 16, 256


def maxima(logits: Tensor, pooled: Tensor, winners: Tensor | None = None) -> None:
    """Compute ``logits.max(dim=1)``; what is not a number wins.

    Args:
        logits: [texts, positions, tokens], contiguous.
        pooled: float32 [texts, tokens], is written; rows may be apart.
        winners: int32 [texts, tokens], is written: the first position of each maximum; None if nobody asks for it.
    """
    texts, positions, tokens = logits.shape
    places = pooled if winners is None else winners
    grid = (triton.cdiv(tokens, _TOKENS), texts)
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _kernel[grid](
            logits, pooled, places, positions, tokens, pooled.stride(0), places.stride(0), winners is not None, _POSITIONS,
            _TOKENS,
        )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202  # Triton would evaluate annotations
    logits, pooled, winners, positions, tokens, pooled_stride, winners_stride,  # noqa: ANN001
    WITH_WINNERS: tl.constexpr, POSITIONS: tl.constexpr, TOKENS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    text = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = token < tokens
    best = tl.full([TOKENS], float("-inf"), tl.float32)
    winner = tl.zeros([TOKENS], tl.int32)
    strange = tl.zeros([TOKENS], tl.int32)
    for first in range(0, positions, POSITIONS):
        position = first + tl.arange(0, POSITIONS)
        places = (text * positions + position[:, None]) * tokens + token[None, :]
        there = (position < positions)[:, None] & inside[None, :]
        values = tl.load(logits + places, mask=there, other=float("-inf")).to(tl.float32)
        strange = tl.maximum(strange, tl.max((values != values).to(tl.int32), axis=0))  # Triton's maxima drop these
        if WITH_WINNERS:
            value, place = tl.max(values, axis=0, return_indices=True)
            winner = tl.where(value > best, first + place, winner)
        else:
            value = tl.max(values, axis=0)
        best = tl.maximum(best, value)
    best = tl.where(strange > 0, float("nan"), best)
    tl.store(pooled + text * pooled_stride + token, best, mask=inside)
    if WITH_WINNERS:
        tl.store(winners + text * winners_stride + token, winner, mask=inside)
