"""Products of float32 matrices with oneDNN on CPUs. PyTorch uses MKL, which is slow on CPUs of other makers than Intel."""

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

# Tokens of the smallest batch that uses oneDNN; our choice (measured: intercepting the calls of a small model takes a
# millisecond).
_FEWEST_TOKENS = 64


def fast_products(device: torch.device, tokens: int) -> AbstractContextManager[Any]:
    """Make ``torch.nn.functional.linear`` use oneDNN if that is faster for a batch; for inference only.

    Measured on one thread of an AMD EPYC with AVX-512: 245 GFLOP/s with oneDNN, 105 with MKL. The rule is fixed, not measured
    at run time: oneDNN adds in another order, so a resumed run could otherwise differ from an uninterrupted one.
    """
    faster = HAS_ONEDNN_LINEAR and device.type == "cpu" and tokens >= _FEWEST_TOKENS
    return _OneDNN() if faster else nullcontext()


class _OneDNN(TorchFunctionMode):
    """Computes products of plain float32 matrices with oneDNN."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is linear and not kwargs and _is_plain(args[0]) and _is_plain(args[1]):
            return linear_by_onednn(args[0], args[1], args[2] if len(args) > 2 else None)
        return func(*args, **(kwargs or {}))


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary float32 matrix with entries, not a quantised one."""
    return tensor.dtype == torch.float32 and type(tensor) in (Tensor, Parameter) and tensor.numel() > 0
