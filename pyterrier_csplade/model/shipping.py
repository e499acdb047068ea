"""Storing of a trained model without what its base model has; ``assembly`` describes the directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.vectors.contract import Contract, Layers

from .assembly import ASSEMBLY_FILE, ROWS_FILE, WEIGHTS_FILE, base_tensors, model_and_adapter
from .checkpoint import Checkpoint
from .hub import load_tokenizer, read_json, save_tokenizer
from .identity import saved_tensors
from .int8_rows import pack
from .loading import load_backbone, read_contract
from .probes import probe_vectors


def store_without_base(
    trained: Path, destination: Path, *, base: str, layers: Layers | None = None, adapter: Path | None = None
) -> Contract:
    """Write a directory that ``CSPLADE(destination)`` assembles with its base model.

    Rows of embeddings and head that are the base's are stored as their numbers. If one of them is not, all are stored in 8
    bits, like every other tensor that training has changed. The stored model therefore differs from the trained one: measure
    the stored one.

    Args:
        trained: Directory of the trained model; with an adapter, of the model that the adapter was trained on.
        destination: A new directory.
        base: A name in ``bases.BASES``, or the directory of the model from which the trained one was made.
        layers: Which layers of the base model it was made of.
        adapter: Directory of a PEFT adapter for ``trained``, with its contract.

    Returns:
        The contract of the stored model.

    Raises:
        ContractError: The trained model, or the adapter, has no contract, or the stored model fails its self-test.
    """
    contract = read_contract(str(adapter or trained), None)
    if contract is None:
        raise ContractError(f"{adapter or trained} has no contract, so that nothing says how its texts are encoded")
    destination.mkdir(parents=True)
    (destination / ASSEMBLY_FILE).write_text(json.dumps({"format": 1, "base": base, "layers": layers}) + "\n", encoding="utf-8")
    AutoConfig.from_pretrained(trained, trust_remote_code=False).to_json_file(destination / "config.json")
    own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    save_tokenizer(load_tokenizer(str(adapter if own else trained)), destination)
    _store_tensors(trained, destination, base, layers)
    if adapter is not None:
        shutil.copyfile(adapter / "adapter_model.safetensors", destination / "adapter_model.safetensors")
        settings = read_json(adapter / "adapter_config.json") | {"base_model_name_or_path": None}  # it is in assembly.json
        (destination / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return _seal(destination, contract)


def _store_tensors(trained: Path, destination: Path, base: str, layers: Layers | None) -> None:
    lm, _ = Checkpoint(str(trained)).load(dtype=torch.float32)
    tensors, ends = saved_tensors(lm), [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]
    original = base_tensors(base, layers, destination / ROWS_FILE)  # which is not there yet: all rows
    changed: dict[str, Tensor] = {}
    rows: list[np.ndarray | None] = []
    for name, tensor in tensors.items():
        values = tensor.detach().to(torch.bfloat16)
        if any(tensor is end for end in ends):
            rows.append(_rows(values, original[name]))
            changed[name] = tensor
        elif not torch.equal(values, original[name]):
            changed[name] = tensor
    first = rows[0]
    if first is not None and all(other is not None and np.array_equal(first, other) for other in rows):
        np.save(destination / ROWS_FILE, first.astype(np.int32))
        changed = {name: tensor for name, tensor in changed.items() if not any(tensors[name] is end for end in ends)}
    if changed:
        save_file(pack(changed), destination / WEIGHTS_FILE, {"format": "pt"})


def _rows(values: Tensor, original: Tensor) -> np.ndarray | None:
    """Return for each row the first row of the base model with the same values; None if a row has none."""
    numbers: dict[bytes, int] = {}
    for number, row in enumerate(original.view(torch.int16).numpy()):
        numbers.setdefault(row.tobytes(), number)
    found = [numbers.get(row.tobytes(), -1) for row in values.view(torch.int16).numpy()]
    return None if -1 in found else np.array(found)


def _seal(directory: Path, contract: Contract) -> Contract:
    """Load the stored model, and write the contract with its digest and its probes."""
    model, adapter = model_and_adapter(str(directory), None)
    backbone = load_backbone(
        model,
        adapter=adapter,
        revision=None,
        contract=contract.replace(weights="", other_weights="", layers=None),
        quantization=None,
        dtype="float32",
        device="cpu",
        attn_implementation=None,
    )
    backbone.contract.replace(probes=probe_vectors(backbone)).save(directory)
    return backbone.contract
