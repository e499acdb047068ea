"""The tensors of a model that have one row for each token."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.model.hub import own_errors

from .shards import Stored


@dataclass(frozen=True)
class Tables:
    """Names of tensors in a model's files.

    Attributes:
        inputs: The table of input embeddings.
        outputs: The LM head; None if it is tied to the input embeddings.
        bias: The head's bias; None if it has none.
        copied: A stored copy of a tied head; None if there is none.
    """

    inputs: str
    outputs: str | None
    bias: str | None
    copied: str | None

    @property
    def changed(self) -> list[str]:
        """Names of the tensors that get new rows."""
        return [name for name in (self.inputs, self.outputs, self.bias) if name is not None]


def find_tables(config: Any, tensors: Mapping[str, Stored], name: str) -> Tables:
    """Find the tensors with one row for each token.

    Raises:
        ContractError: A tensor is missing, the configuration and the files disagree on whether the head is tied, or other
            tensors depend on the size of the vocabulary; the message names them.
    """
    lm = _without_weights(config, name)
    paths = {id(module): path for path, module in lm.named_modules()}
    head = lm.get_output_embeddings()
    if head is None:
        raise ContractError(f"{name}: the architecture {type(lm).__name__} has no LM head")
    first, last = paths[id(lm.get_input_embeddings())], paths[id(head)]
    prefix = f"{lm.base_model_prefix}."

    known = {path: parameter.shape for path, parameter in lm.named_parameters(remove_duplicate=False)}

    def stored(key: str) -> str | None:
        if direct := next((found for found in (key, key.removeprefix(prefix)) if found in tensors), None):
            return direct
        # transformers renames some tensors of older checkpoints when it loads them, such as embed_out of GPT-NeoX.
        alike = [found for found, tensor in tensors.items() if found not in known and tensor.shape == known[key]]
        return alike[0] if len(alike) == 1 else None

    inputs, outputs = stored(f"{first}.weight"), stored(f"{last}.weight")
    if inputs is None:
        raise ContractError(f"{name}: its files have no tensor {first}.weight (the input embeddings), as {_kind(lm)} has")
    tied = bool(config.get_text_config().tie_word_embeddings)
    if not tied and outputs is None:
        raise ContractError(
            f"{name}: config.json has tie_word_embeddings false, but its files have no LM head ({last}.weight): copy it again, "
            "or set tie_word_embeddings"
        )
    if tied and outputs is not None and not tensors[outputs].equals(tensors[inputs]):
        raise ContractError(
            f"{name}: config.json ties the LM head to the input embeddings, but {outputs} differs from {inputs}: set "
            "tie_word_embeddings to false, or copy it again"
        )
    bias = stored(f"{last}.bias") if getattr(head, "bias", None) is not None else None
    tables = Tables(inputs, None if tied else outputs, bias, outputs if tied else None)
    _check_others(config, lm, {f"{first}.weight", f"{last}.weight", f"{last}.bias"}, name)
    for table in tables.changed:
        rows, expected = tensors[table].shape[0], config.get_text_config().vocab_size
        if rows != expected:
            raise ContractError(
                f"{name}: {table} has {rows:,} rows, but config.json a vocab_size of {expected:,}: copy it again"
            )
    return tables


def _check_others(config: Any, lm: Any, known: set[str], name: str) -> None:
    """Refuse a model with other tensors whose shape depends on the size of the vocabulary."""
    larger = copy.deepcopy(config)
    larger.get_text_config().vocab_size += 1
    shapes = {key: parameter.shape for key, parameter in _without_weights(larger, name).named_parameters()}
    changed = [key for key, parameter in lm.named_parameters() if shapes[key] != parameter.shape and key not in known]
    if changed:
        raise ContractError(f"{name}: {changed[0]} of {_kind(lm)} also depends on the vocabulary, and cannot be changed")


def _without_weights(config: Any, name: str) -> Any:
    with own_errors(f"{name}: config.json describes no causal language model that can be changed"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _kind(lm: Any) -> str:
    return type(lm).__name__
