"""Tensors of 8 bits with one scale for each row: the form in which this package ships trained layers.

A file in this form is a safetensors file. A matrix ``name`` of [rows, columns] is stored as ``name``, int8 [rows, columns], and
``name.scale``, float32 [rows]. The values of row i are ``scale[i] * int8[i]``, rounded to bfloat16; a scale is the largest
absolute value of its row, divided by 127. Tensors of another number of dimensions are stored as bfloat16.

The products are of two float32 numbers, and are rounded once, so that they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyterrier_csplade._errors import ContractError

_SCALE = ".scale"
_LARGEST = 127


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round matrices to 8 bits, and other tensors to bfloat16.

    Raises:
        ContractError: A value is not finite; names the tensor.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().to("cpu", torch.float32)
        if not values.isfinite().all():
            raise ContractError(f"the tensor {name} holds values that are not finite")
        if values.ndim != 2:
            packed[name] = values.to(torch.bfloat16)
            continue
        scale = values.abs().amax(dim=1) / _LARGEST
        scale[scale == 0] = 1  # a row of zeros
        packed[name] = (values / scale[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        packed[f"{name}{_SCALE}"] = scale
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, as bfloat16.

    Raises:
        ContractError: A tensor of 8 bits has no scales, or their number is not that of its rows; names it.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in packed.items():
        if values.dtype == torch.int8:
            scale = packed.get(f"{name}{_SCALE}")
            if scale is None or scale.shape != values.shape[:1]:
                raise ContractError(f"the tensor {name} of 8 bits must have one scale for each of its {len(values)} rows")
            tensors[name] = (values.float() * scale.float()[:, None]).to(torch.bfloat16)
        elif not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in packed):
            tensors[name] = values.to(torch.bfloat16)
    return tensors
