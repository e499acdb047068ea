"""Private interfaces of transformers, each with a fallback."""

from __future__ import annotations

import contextlib
import importlib.metadata
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


def show_version_of_gguf() -> None:
    """Let transformers find the version of the package gguf, without which it refuses GGUF files.

    On Python 3.10, importlib.metadata does not know that the module belongs to the package. Older releases of transformers then
    read ``__version__``, which the module does not have.
    """
    with contextlib.suppress(ImportError):  # transformers says what is missing
        import gguf

        if not hasattr(gguf, "__version__"):
            gguf.__version__ = importlib.metadata.version("gguf")  # type: ignore[attr-defined]


def attention_of(config: Any) -> str:
    """Return the attention implementation in a configuration, or "unknown" if it has no such setting."""
    return str(getattr(config, _ATTENTION, "unknown"))


def set_attention(config: Any, implementation: str) -> None:
    """Set the attention implementation in a configuration; do nothing if it has no such setting."""
    if hasattr(config, _ATTENTION):
        setattr(config, _ATTENTION, implementation)


def as_saved(lm: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Rename a model's tensors as its checkpoint names them; return them unchanged if those names are not known."""
    if revert_weight_conversion is not None:
        with contextlib.suppress(Exception):  # the model's class is not from transformers
            return dict(revert_weight_conversion(lm, dict(tensors)))
    return tensors


def dequantised(directory: str, file: dict[str, str], config: Any) -> Any:
    """Load a GGUF file into CPU memory and dequantise its weights to float32.

    Args:
        directory: Directory of the file.
        file: The argument of ``from_pretrained`` that names the file.
        config: Configuration of the model, which may have fewer layers than the file.
    """
    settings = {"quantization_config": GgufConfig(dequantize=True)} if GgufConfig is not None else {}
    return AutoModelForCausalLM.from_pretrained(
        directory, **file, config=config, dtype=torch.float32, trust_remote_code=False, **settings
    )
