"""Attention within each text of a packed row, with PyTorch's flash kernel for CUDA.

transformers packs texts only for the package flash-attn. This module does the same for ``sdpa``. It needs ``varlen_attn`` of
PyTorch 2.11; without it, texts are padded.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from .transformers_internals import attention_of, set_attention

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # PyTorch below 2.10
    varlen_attn = None  # type: ignore[assignment]

#: Name of the implementation in transformers.
NAME = "csplade_varlen"


def is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the kernel supports a device and a dtype."""
    half = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    return half and varlen_attn is not None and "window_size" in _parameters(varlen_attn)


@cache
def _parameters(kernel: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a kernel's parameters, which differ between releases of PyTorch. Cached, because every layer asks."""
    return frozenset(inspect.signature(kernel).parameters)


def text_bounds(attention_mask: Tensor) -> dict[str, Any]:
    """Return the bounds of the texts in a packed row, from their mask [texts, length], as transformers' arguments."""
    lengths = attention_mask.sum(dim=1, dtype=torch.int32)
    starts = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max())
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


@contextlib.contextmanager
def used_by(lm: Any) -> Iterator[None]:
    """Make a model with PyTorch's attention use this implementation; models that pack by themselves stay as they are."""
    before = attention_of(lm.config)
    if before != "sdpa":
        yield
        return
    set_attention(lm.config, NAME)
    try:
        yield
    finally:
        set_attention(lm.config, before)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attend within texts. Models of transformers call this function.

    Args:
        module: The layer; ``is_causal`` is its default mask.
        query: [1, heads, tokens, width].
        key: [1, heads of keys, tokens, width].
        value: As ``key``.
        attention_mask: Not used.
        scaling: Factor of the scores.
        is_causal: Overrides the layer's setting.
        sliding_window: Number of tokens that a token attends to, including itself; None for all.
        settings: The result of ``text_bounds``, and arguments for other implementations.

    Returns:
        [1, tokens, heads, width], and no weights.

    Raises:
        ValueError: The model transforms its scores in a way that the kernel does not support.
    """
    for name in ("softcap", "s_aux"):
        if settings.get(name) is not None:
            raise ValueError(f"{name} is not supported without padding")
    causal = module.is_causal if is_causal is None else is_causal
    window = (sliding_window - 1 if sliding_window else -1, 0) if causal else (-1, -1)
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    shared: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _parameters(varlen_attn) else {}
    starts, longest = settings["cu_seq_lens_q"], settings["max_length_q"]
    attended: Any = varlen_attn(
        query, key, value, starts, starts, longest, longest, scale=scaling, window_size=window, **shared
    )
    return attended[None], None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Return no mask, because the bounds of the texts replace it."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)
