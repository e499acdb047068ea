"""What ZeRO-3 of DeepSpeed needs to know: between the passes of a module it takes the module's weights away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.serialization import safe_globals
from transformers.integrations import deepspeed


def reads_weights_of(module: nn.Module, other: nn.Module) -> None:
    """Let ZeRO-3 gather the weights of one module for the passes of another, which reads them without calling the module.

    Args:
        module: Whose forward pass reads them.
        other: Whose weights they are, for example the LM head.
    """
    if deepspeed.is_deepspeed_zero3_enabled():
        from deepspeed.runtime.zero import register_external_parameter

        for parameter in other.parameters(recurse=False):
            register_external_parameter(module, parameter)


@contextmanager
def in_one_piece() -> Iterator[None]:
    """Let transformers load models whole, where it would divide them among the processes (ZeRO-3)."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


@contextmanager
def values_only() -> Iterator[None]:
    """Let DeepSpeed load tensors, numbers and its own settings, where it would load any pickle of a checkpoint, code too."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # of torch, for all of its loading
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with safe_globals([ZeroStageEnum, LossScaler, fragment_address]):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
