"""Private interfaces of PyTorch. Importing this module tests them; each has a fallback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def linear_by_onednn(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``linear`` of float32 matrices with the operator that torch.compile uses on CPUs."""
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def int8_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Multiply int8 matrices on a CPU, and write the int32 product into ``out``."""
    if HAS_INT8_PRODUCT:
        torch._int_mm(left, right, out=out)
    else:
        torch.mm(left.int(), right.int(), out=out)


def multiplies_int8_fast() -> bool:
    """Return whether PyTorch uses AVX-512 VNNI for ``int8_product`` on this CPU; False if PyTorch does not say."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None) or getattr(torch.cpu, "_is_avx512_vnni_supported", None)
    return HAS_INT8_PRODUCT and bool(supported and supported())


def state_of(tensor: Tensor) -> Any:
    """Return a value that compares unequal to later ones once the tensor has been changed in place."""
    if tensor.is_inference():
        return None
    return tensor._version if hasattr(tensor, "_version") else object()


def _works(call: Callable[[], Any]) -> bool:
    try:
        call()
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


_FLOATS, _BYTES = torch.ones(1, 1), torch.ones(8, 8, dtype=torch.int8)
#: Whether ``linear_by_onednn`` can be called.
HAS_ONEDNN_LINEAR = torch.backends.mkldnn.is_available() and _works(lambda: linear_by_onednn(_FLOATS, _FLOATS, None))  # type: ignore[no-untyped-call]
#: Whether PyTorch multiplies int8 matrices itself.
HAS_INT8_PRODUCT = _works(lambda: torch._int_mm(_BYTES, _BYTES, out=torch.empty(8, 8, dtype=torch.int32)))
