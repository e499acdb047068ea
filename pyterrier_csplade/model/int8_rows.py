"""Matrices in 8 bits with one scale per row: the format in which this package ships trained layers.

The files are safetensors files. A matrix ``name`` [rows, columns] is stored as ``name``, int8 [rows, columns], and
``name.scale``, float32 [rows]. Row i is ``scale[i] * int8[i]``, rounded to bfloat16. The scale is the largest absolute value of
the row, divided by 127. Tensors that are not matrices are stored as bfloat16.

Each product multiplies two float32 numbers and is rounded once, so every machine computes the same values.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyterrier_csplade._errors import ContractError

_SCALE = ".scale"
_LARGEST = 127


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round matrices to 8 bits and other tensors to bfloat16.

    Raises:
        ContractError: A value is not finite; the message names the tensor.
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
    """Return the tensors as bfloat16.

    Raises:
        ContractError: An 8-bit tensor does not have one scale per row; the message names the tensor.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in packed.items():
        if values.dtype == torch.int8:
            scale = packed.get(f"{name}{_SCALE}")
            if scale is None or scale.shape != values.shape[:1]:
                raise ContractError(f"the 8-bit tensor {name} must have one scale for each of its {len(values)} rows")
            tensors[name] = (values.float() * scale.float()[:, None]).to(torch.bfloat16)
        elif not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in packed):
            tensors[name] = values.to(torch.bfloat16)
    return tensors
