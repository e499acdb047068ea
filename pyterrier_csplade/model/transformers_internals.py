"""Private interfaces of transformers, and what holds where one of them is missing."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from transformers import AutoModelForCausalLM

try:
    from transformers.core_model_loading import revert_weight_conversion
except ImportError:  # another release
    revert_weight_conversion = None

try:
    from transformers import GgufConfig
except ImportError:  # earlier releases always dequantise
    GgufConfig = None

_ATTENTION = "_attn_implementation"


def attention_of(config: Any) -> str:
    """Return the attention implementation of a model's configuration, "unknown" where it has no such setting."""
    return str(getattr(config, _ATTENTION, "unknown"))


def set_attention(config: Any, implementation: str) -> None:
    """Let a model use another attention implementation; nothing happens where the configuration has no such setting."""
    if hasattr(config, _ATTENTION):
        setattr(config, _ATTENTION, implementation)


def as_saved(lm: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return a model's tensors by the names under which its checkpoint has them; as they are where that is not known."""
    if revert_weight_conversion is not None:
        with contextlib.suppress(Exception):  # a model that is not of transformers
            return dict(revert_weight_conversion(lm, dict(tensors)))
    return tensors


def dequantised(directory: str, file: dict[str, str], config: Any) -> Any:
    """Load a GGUF file into the CPU's memory, its weights as float32.

    Args:
        directory: Its directory.
        file: Its name, as ``from_pretrained`` takes it.
        config: The configuration of the model, which may have fewer layers.
    """
    settings = {"quantization_config": GgufConfig(dequantize=True)} if GgufConfig is not None else {}
    return AutoModelForCausalLM.from_pretrained(
        directory, **file, config=config, dtype=torch.float32, trust_remote_code=False, **settings
    )
