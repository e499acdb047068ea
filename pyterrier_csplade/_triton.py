"""The LM head and the maximum over positions in one Triton kernel: logits never leave the registers.

It computes what :func:`pyterrier_csplade._head.max_logits` does, which stays the reference and the default. Ours; Sparton
(arXiv 2603.25011) describes such a kernel for training. So far it was only run by Triton's interpreter, not on a GPU: measure
it there with ``python benchmarks/head.py`` before you rely on it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tile of the product: tokens of the vocabulary, positions, and the part of the width that is added up at a time. Ours.
_TOKENS, _POSITIONS, _WIDTH = 128, 64, 64


def max_logits(states: Tensor, weight: Tensor) -> Tensor:
    """Compute the maximum over positions of ``states @ weight.T``, with sums in float32.

    Args:
        states: Hidden states of each text's pooled positions, [texts, positions, width].
        weight: The LM head, [tokens, width].

    Returns:
        float32 [texts, tokens].
    """
    states, weight = states.contiguous(), weight.to(states.dtype).contiguous()
    texts, positions, width = states.shape
    pooled = torch.empty(texts, len(weight), dtype=torch.float32, device=states.device)
    # Texts lead, so that programs that run together share a tile of the head in the cache.
    grid = (texts, triton.cdiv(len(weight), _TOKENS))
    _kernel[grid](states, weight, pooled, len(weight), positions, width, _TOKENS, _POSITIONS, _WIDTH)
    # Triton's maximum drops what is not a number; callers have to see it.
    return pooled + (states.float() * 0).sum(dim=(1, 2))[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # the upper-case names are constants of the compiled kernel
    states: Any, weight: Any, pooled: Any, tokens: Any, positions: Any, width: Any,
    TOKENS: tl.constexpr, POSITIONS: tl.constexpr, WIDTH: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    text = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    best = tl.full([TOKENS], float("-inf"), tl.float32)
    for first in range(0, positions, POSITIONS):
        position = first + tl.arange(0, POSITIONS)
        logits = tl.zeros([POSITIONS, TOKENS], tl.float32)
        for start in range(0, width, WIDTH):
            dimension = start + tl.arange(0, WIDTH)
            inside = dimension < width
            state = tl.load(
                states + (text * positions + position[:, None]) * width + dimension[None, :],
                mask=(position < positions)[:, None] & inside[None, :],
                other=0.0,
            )
            row = tl.load(
                weight + token[None, :] * width + dimension[:, None],
                mask=(token < tokens)[None, :] & inside[:, None],
                other=0.0,
            )
            logits = tl.dot(state, row, logits, input_precision="ieee")
        logits = tl.where((position < positions)[:, None], logits, float("-inf"))
        best = tl.maximum(best, tl.max(logits, axis=0))
    tl.store(pooled + text * tokens + token, best, mask=token < tokens)
