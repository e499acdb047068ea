"""Models that are stored without their base model, and assembled with it once, in the user's cache.

The directory of such a model contains:

- ``assembly.json``: ``{"format": 1, "base": ..., "layers": ...}``. The base is a name in ``bases.BASES`` or a directory.
  ``layers`` are the kept layers, in the form of the argument of ``CSPLADE``, or null.
- ``config.json`` and the files of the tokenizer of the assembled model.
- ``rows.npy``: for each row of the assembled model's embeddings and head, the number of the base model's row. Without this
  file, all rows are kept.
- ``weights.safetensors`` (optional): tensors that replace those of the base model, in the format of ``int8_rows``. Layers have
  their numbers in the assembled model.
- ``adapter_config.json`` and ``adapter_model.safetensors`` (optional): a PEFT adapter for the assembled model.
- ``csplade_config.json``: the contract, with the digest of the assembled model and its adapter.
"""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.storage.cache import cached
from pyterrier_csplade.storage.files import sha256
from pyterrier_csplade.vectors.contract import Layers, are_layers

from .adapters import base_and_adapter
from .bases import BASES, fetch_base
from .checkpoint import Checkpoint
from .hub import own_errors, read_json, weight_files
from .identity import saved_tensors
from .int8_rows import unpack

#: The base model of csplade-small.
BASE_OF_SMALL = "smollm2-135m-instruct"

ASSEMBLY_FILE = "assembly.json"
WEIGHTS_FILE = "weights.safetensors"
ROWS_FILE = "rows.npy"
# Files that are copied into the assembled model. An adapter is not: it is applied whenever the model is loaded.
_COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def model_and_adapter(model: str, adapter: str | None) -> tuple[str, str | None]:
    """Return the model and the adapter to load for a name: an assembled model, or the base model of an adapter.

    Args:
        model: Hub id, directory or GGUF file.
        adapter: Hub id or directory of an adapter for the model; None if ``model`` may contain one.

    Raises:
        CspladeError: A base model cannot be fetched, or a stored model cannot be assembled.
    """
    if (Path(model) / ASSEMBLY_FILE).is_file():
        own = model if (Path(model) / "adapter_config.json").is_file() else None
        return str(assemble(Path(model))), adapter or own
    return base_and_adapter(model) if adapter is None else (model, adapter)


def base_of(directory: Path) -> tuple[str, Layers | None]:
    """Return the base model's name or directory, and its kept layers.

    Raises:
        ContractError: ``assembly.json`` is damaged.
    """
    path = directory / ASSEMBLY_FILE
    values = read_json(path)
    if values.get("format") != 1:
        raise ContractError(f"{path} has a newer format: update pyterrier_csplade")
    base, layers = values.get("base"), values.get("layers")
    if not isinstance(base, str) or not (layers is None or are_layers(layers)):
        raise ContractError(f"{path} must have a base and its layers, found {values!r:.80}: copy it again")
    return base, layers


def assemble(directory: Path) -> Path:
    """Return the directory of the assembled model. If it is not in the cache, fetch the base model and assemble it.

    Raises:
        CspladeError: The base model cannot be fetched, or the files do not fit together.
    """
    base, layers = base_of(directory)
    files = [
        path for path in sorted(directory.iterdir()) if path.is_file() and path.name in (*_COPIED, ROWS_FILE, WEIGHTS_FILE)
    ]
    with own_errors(f"{directory}: its base model {base} cannot be read: put it back, or correct {ASSEMBLY_FILE}"):
        key = hashlib.sha256(f"{layers} {_digest_of(base)}".encode())
    for path in files:
        key.update(f"{path.name} {sha256(path)}".encode())
    return cached(f"{directory.name}-{key.hexdigest()[:16]}", partial(_assemble, directory, base, layers))


def _digest_of(base: str) -> str:
    return BASES[base].sha256 if base in BASES else " ".join(sha256(path) for path in weight_files(base))


def _assemble(directory: Path, base: str, layers: Layers | None, target: Path) -> None:
    with own_errors(f"{directory}: the model cannot be assembled: check that its files and its base model are complete"):
        tensors = base_tensors(base, layers, directory / ROWS_FILE)
        if (directory / WEIGHTS_FILE).is_file():
            stored = unpack(load_file(directory / WEIGHTS_FILE))
            if unknown := sorted(stored.keys() - tensors.keys()):
                raise ContractError(
                    f"{directory / WEIGHTS_FILE} has the tensor {unknown[0]}, which the base model does not have: copy it again"
                )
            tensors |= stored
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors", {"format": "pt"}
        )
        for name in _COPIED:
            if (directory / name).is_file():
                shutil.copyfile(directory / name, target / name)


def base_tensors(base: str, layers: Layers | None, rows: Path) -> dict[str, Tensor]:
    """Return the tensors of a base model as bfloat16, reduced to some layers, and some rows of the embeddings and the head.

    Args:
        base: A name in ``BASES``, or a directory.
        layers: The kept layers.
        rows: A file with the numbers of the kept rows. If it does not exist, all rows are kept.

    Raises:
        ContractError: The file names a row that the base model does not have.
    """
    lm, _ = Checkpoint(str(fetch_base(base)) if base in BASES else base, None, layers).load(dtype=torch.bfloat16)
    tensors = saved_tensors(lm)
    if not rows.is_file():
        return tensors
    # Mapped, so that an array that the file only claims to hold takes no memory.
    numbers = np.load(rows, mmap_mode="r", allow_pickle=False)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise ContractError(f"{rows} must hold a list of integers, found {numbers.dtype} {list(numbers.shape)}: copy it again")
    kept = torch.from_numpy(numbers.astype(np.int64))
    ends: list[Any] = [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]
    for name, tensor in tensors.items():
        if any(tensor is end for end in ends):
            if len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < len(tensor):
                raise ContractError(f"{rows}: the base model has only the rows 0 to {len(tensor) - 1:,}: copy the file again")
            tensors[name] = tensor.detach()[kept]
    return tensors
