"""Private interfaces of transformers, and what holds where one of them is missing."""

from __future__ import annotations

from typing import Any

_ATTENTION = "_attn_implementation"


def attention_of(config: Any) -> str:
    """Return the attention implementation of a model's configuration, "unknown" where it has no such setting."""
    return str(getattr(config, _ATTENTION, "unknown"))


def set_attention(config: Any, implementation: str) -> None:
    """Let a model use another attention implementation; nothing happens where the configuration has no such setting."""
    if hasattr(config, _ATTENTION):
        setattr(config, _ATTENTION, implementation)
