"""Products of float32 matrices on a CPU by oneDNN: PyTorch leaves them to MKL, which is slow on CPUs of other makers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from .torch_internals import HAS_ONEDNN_LINEAR, linear_by_onednn

# Tokens of the smallest batch that gains; our choice (measured: intercepting the calls of a small model costs a millisecond).
_FEWEST_TOKENS = 64


def fast_products(device: torch.device, tokens: int) -> AbstractContextManager[Any]:
    """Let ``torch.nn.functional.linear`` use oneDNN for a batch where that is faster; for inference only.

    Measured on one thread of an AMD EPYC with AVX-512: 245 GFLOP/s by oneDNN, 105 by MKL. The rule is fixed, not measured at
    run time, because sums of another order would make a run that resumes differ from an undisturbed one.

    Args:
        device: Of the model.
        tokens: In the batch.
    """
    pays = HAS_ONEDNN_LINEAR and device.type == "cpu" and tokens >= _FEWEST_TOKENS
    return _OneDNN() if pays else nullcontext()


class _OneDNN(TorchFunctionMode):
    """Sends plain float32 matrices through oneDNN."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is linear and not kwargs and _is_plain(args[0]) and _is_plain(args[1]):
            return linear_by_onednn(args[0], args[1], args[2] if len(args) > 2 else None)
        return func(*args, **(kwargs or {}))


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is an ordinary float32 matrix with entries, not a quantised one."""
    return tensor.dtype == torch.float32 and type(tensor) in (Tensor, Parameter) and tensor.numel() > 0
