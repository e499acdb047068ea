"""Storing a trained model without the tensors of its base model. The module ``assembly`` describes the directory."""

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
    """Write a directory from which ``CSPLADE(destination)`` assembles the model with its base model.

    If all rows of the embeddings and the head equal rows of the base model, only the numbers of these rows are stored.
    Otherwise, the embeddings and the head are stored in 8 bits, as is every other tensor that training changed. The stored
    model can therefore differ from the trained one: measure the stored model.

    Args:
        trained: Directory of the trained model, or of the model that ``adapter`` was trained on.
        destination: A new directory.
        base: A name in ``bases.BASES``, or the directory of the model from which the trained one was made.
        layers: The layers of the base model that the trained model consists of.
        adapter: Directory of a PEFT adapter for ``trained``, with a contract.

    Returns:
        The contract of the stored model.

    Raises:
        ContractError: The trained model or the adapter has no contract, or the stored model fails its self-test.
    """
    contract = read_contract(str(adapter or trained), None)
    if contract is None:
        raise ContractError(f"{adapter or trained} has no contract, so it is not known how to encode its texts")
    destination.mkdir(parents=True)
    (destination / ASSEMBLY_FILE).write_text(json.dumps({"format": 1, "base": base, "layers": layers}) + "\n", encoding="utf-8")
    AutoConfig.from_pretrained(trained, trust_remote_code=False).to_json_file(destination / "config.json")
    own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    save_tokenizer(load_tokenizer(str(adapter if own else trained)), destination)
    _store_tensors(trained, destination, base, layers)
    if adapter is not None:
        shutil.copyfile(adapter / "adapter_model.safetensors", destination / "adapter_model.safetensors")
        settings = read_json(adapter / "adapter_config.json") | {"base_model_name_or_path": None}  # assembly.json names it
        (destination / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return _seal(destination, contract)


def _store_tensors(trained: Path, destination: Path, base: str, layers: Layers | None) -> None:
    lm, _ = Checkpoint(str(trained)).load(dtype=torch.float32)
    tensors, ends = saved_tensors(lm), [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]
    original = base_tensors(base, layers, destination / ROWS_FILE)  # the file does not exist yet: all rows
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
    """Return the number of the first equal row of the base model for each row; None if a row has no equal."""
    numbers: dict[bytes, int] = {}
    for number, row in enumerate(original.view(torch.int16).numpy()):
        numbers.setdefault(row.tobytes(), number)
    found = [numbers.get(row.tobytes(), -1) for row in values.view(torch.int16).numpy()]
    return None if -1 in found else np.array(found)


def _seal(directory: Path, contract: Contract) -> Contract:
    """Load the stored model and write its contract, with the digest and the probes."""
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
