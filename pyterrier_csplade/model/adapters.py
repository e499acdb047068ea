"""PEFT adapters: reading from safetensors, applying to a model, and merging."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyterrier_csplade._errors import ContractError

from .hub import check_published, is_gguf, optional_file, own_errors, read_json
from .identity import digests

_CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_NUMBER, _NAMES = (int, float), (str, list, type(None))
# Types of LoRA's settings that change vectors.
_TYPES: dict[str, tuple[type, ...]] = {
    "peft_type": (str,), "r": (int,), "lora_alpha": _NUMBER, "use_rslora": (bool,), "use_dora": (bool,),
    "fan_in_fan_out": (bool,), "rank_pattern": (dict,), "alpha_pattern": (dict,), "target_modules": _NAMES,
    "modules_to_save": (list, type(None)), "bias": (str,), "lora_bias": (bool,), "lora_dropout": _NUMBER,
    "exclude_modules": _NAMES, "base_model_name_or_path": (str, type(None)),
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """The settings and tensors of an adapter.

    Attributes:
        name: Hub id or directory.
        config: The settings (PEFT).
        digests: Digest of each tensor.
        base: Hub id or directory of the base model, empty if the settings do not name it. Kept here because PEFT overwrites it.
        shapes: Shape of each tensor.
    """

    name: str
    config: Any
    digests: Mapping[str, str]
    base: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def identity(self) -> tuple[Any, Mapping[str, str]]:
        """The parts of the adapter that the digest of a model covers."""
        return self.config, self.digests

    def check_vocabulary(self, lm: Any, tokenizer: Any) -> None:
        """Refuse an adapter for another vocabulary, for example from before ``pyterrier-csplade vocabulary``.

        Raises:
            ContractError: The adapter changes embeddings or a head with another number of tokens, or its tokenizer has more
                tokens than the model.
        """
        ends = (lm.get_input_embeddings(), lm.get_output_embeddings())
        rows = len(ends[0].weight)
        tables = {path.rpartition(".")[2] for path, module in lm.named_modules() if module in ends}
        sizes = [_rows_of(key, shape, tables) for key, shape in self.shapes.items()]
        ids = set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder)
        if max(ids, default=0) >= rows:
            sizes.append(len(ids))
        if others := [size for size in sizes if size not in (None, rows)]:
            raise ContractError(
                f"{self.name} was made for a vocabulary of {others[0]:,} tokens, but the model has {rows:,} rows: load it with "
                "the model that it was trained on"
            )

    def put_on(self, lm: Any) -> Any:
        """Wrap a model with the adapter.

        Raises:
            ContractError: The adapter does not fit the model.
        """
        from peft import get_peft_model

        with own_errors(f"{self.name} does not fit the model"):  # another rank, or a base model of another width
            wrapped: Any = get_peft_model(lm, self.config)
            result = wrapped.load_adapter(self.name, adapter_name="default", is_trainable=False)
        missing = [key for key in result.missing_keys if "lora_" in key]
        if missing or result.unexpected_keys:
            raise ContractError(
                f"{self.name} does not fit the model: {len(missing)} missing tensors {missing[:2]}, "
                f"{len(result.unexpected_keys)} unexpected {result.unexpected_keys[:2]}"
            )
        return wrapped


def read_adapter(name: str) -> Adapter:
    """Read the settings and tensors of an adapter, never from pickles.

    Raises:
        FileNotFoundError: The hub has no such adapter.
        ContractError: A file is missing or damaged, a setting has the wrong type, or a value is not finite; the message names
            it.
    """
    from peft import PeftConfig
    from peft.utils import load_peft_weights

    check_published(name, _CONFIG_FILE)
    # If this file exists, PEFT reads it instead of a pickle.
    if optional_file(name, _WEIGHTS_FILE) is None:
        raise ContractError(
            f"{name} has no {_WEIGHTS_FILE}, and weights in pickles are never read: save it again with save_pretrained"
        )
    for key, value in read_json(str(optional_file(name, _CONFIG_FILE))).items():
        types = _TYPES.get(key, (object,))
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types):
            nouns = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise ContractError(f"{name}: {key} in {_CONFIG_FILE} must be of type {nouns}, found {value!r:.80}: correct it")
    with own_errors(f"{name}: {_CONFIG_FILE} cannot be used (is its peft_type known to the installed peft?)"):
        config = PeftConfig.from_pretrained(name)
        config.inference_mode = True
    with own_errors(f"{name}: {_WEIGHTS_FILE} cannot be read: copy it again"):
        weights = load_peft_weights(name, device="cpu")
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    return Adapter(name, config, digests(weights.items(), name), str(config.base_model_name_or_path or ""), shapes)


def _rows_of(key: str, shape: tuple[int, ...], tables: set[str]) -> int | None:
    """Return the number of tokens that a tensor of an adapter belongs to; None if its shape does not depend on the vocabulary.

    Args:
        key: Name of the tensor, such as ``base_model.model.lm_head.lora_B.weight``.
        shape: Shape of the tensor.
        tables: Names of the modules of input embeddings and head.
    """
    module, _, name = key.rpartition(".")
    if name == "weight" and module.rpartition(".")[2] in tables:  # trained whole (modules_to_save)
        return shape[0]
    for table in tables:
        if f".{table}.lora_embedding_A" in key:
            return shape[1]
        if f".{table}.lora_B" in key:
            return shape[0]
    return None


def base_and_adapter(name: str) -> tuple[str, str | None]:
    """Return the base model and the adapter of a name; the name itself and None if it is not an adapter.

    Raises:
        ContractError: It is an adapter that names no base model, or the base model is not found.
    """
    if is_gguf(name) or _file(name, "config.json") is not None or (config := _file(name, _CONFIG_FILE)) is None:
        return name, None
    base = read_json(config).get("base_model_name_or_path")
    if not (isinstance(base, str) and base and (Path(base).exists() or _file(base, "config.json"))):
        raise ContractError(
            f"{name} is an adapter whose base model is not found ({base!r:.80}): pass it, CSPLADE(base model, adapter={name!r})"
        )
    return base, name


def _file(name: str, file: str) -> str | None:
    """Find a file of a hub model or a directory; None if the model or the file does not exist."""
    with contextlib.suppress(OSError):
        return optional_file(name, file)
    return None


def merge_adapter(lm: Any) -> Any:
    """Merge an adapter into its model. Tied weights are separated first.

    Otherwise, an adapter on the embeddings or the head alone would change both.
    """
    base = lm.get_base_model()
    first, last = (_inner(module) for module in (base.get_input_embeddings(), base.get_output_embeddings()))
    was_tied = first.weight is last.weight
    if was_tied:
        last.weight = nn.Parameter(last.weight.detach().clone(), requires_grad=False)
    with own_errors("the adapter cannot be merged"):
        merged = lm.merge_and_unload()
    first, last = merged.get_input_embeddings(), merged.get_output_embeddings()
    last.out_features, last.in_features = last.weight.shape  # PEFT's copy of embeddings swaps them
    if was_tied:
        stays_tied = torch.equal(first.weight, last.weight)
        if stays_tied:
            last.weight = first.weight
        for config in (merged.config, merged.config.get_text_config()):
            config.tie_word_embeddings = stays_tied
    return merged


def _inner(module: Any) -> Any:
    """Return the layer of the base model inside PEFT's wrappers."""
    while hasattr(module, "base_layer") or hasattr(module, "original_module"):
        module = module.base_layer if hasattr(module, "base_layer") else module.original_module
    return module
