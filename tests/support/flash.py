"""Flash attention in plain torch, so that transformers runs its code for packed texts without padding on a CPU, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import modeling_flash_attention_utils as utils

# Lengths of the texts in each call of the kernel for texts of different lengths.
CALLS: list[list[int]] = []


def _attend(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None, causal: bool) -> Tensor:
    """Return the attention of one text [length, heads, width]; several heads of q share one head of k and v."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * (softmax_scale or q.shape[-1] ** -0.5)
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False
) -> Tensor:
    return torch.stack([_attend(*text, softmax_scale, causal) for text in zip(q, k, v)])


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
) -> Tensor:  # fmt: skip
    lengths = cu_seqlens_q.diff().tolist()
    CALLS.append(lengths)
    texts = zip(*(torch.split(tensor, lengths) for tensor in (q, k, v)))
    return torch.cat([_attend(query, key, value, softmax_scale, causal) for query, key, value in texts])


def install(monkeypatch: pytest.MonkeyPatch, varlen: Any = flash_attn_varlen_func) -> None:
    """Make transformers use these functions as ``flash_attention_2``."""
    CALLS.clear()
    functions = (flash_attn_func, varlen, None, utils._pad_input, utils._unpad_input)
    monkeypatch.setattr(utils, "_lazy_imports", lambda *args, **kwargs: functions)
    for name in ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn", "_unpad_fn"):
        monkeypatch.setattr(utils, name, None)
    for name in ("_process_flash_kwargs_fn", "_process_with_kvcache_kwargs_fn"):
        monkeypatch.setattr(utils, name, None)
