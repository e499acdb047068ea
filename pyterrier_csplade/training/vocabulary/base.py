"""The model from which the vocabulary stage starts, and its settings in the new directory."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerFast

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.model.hub import (
    check_published,
    load_tokenizer,
    optional_file,
    own_errors,
    read_json,
    save_tokenizer,
    weight_files,
)
from pyterrier_csplade.model.terms import NORMALISED, TERMS_SETTING
from pyterrier_csplade.vectors.contract import CONTRACT_FILE

from .bpe import BytePairs
from .config import VocabularyConfig
from .ids import check_ids, renumbered
from .shards import Stored, read_tensors
from .tables import Tables, find_tables

_CONFIG, _GENERATION = "config.json", "generation_config.json"
# Files that show that a directory is not a base language model.
_UNUSABLE = {
    "adapter_config.json": "an adapter: merge it into its base model",
    CONTRACT_FILE: "a trained encoder, and its vocabulary is part of its contract: start from its base model",
}
# Settings of a tokenizer that hold for any vocabulary.
_KEPT_SETTINGS = (
    "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token", "extra_special_tokens",
    "model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces", "split_special_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A model without its weights.

    Attributes:
        name: Hub id or directory.
        settings: The contents of config.json and generation_config.json.
        tokenizer: The tokenizer.
        encoding: The byte-pair encoding of the tokenizer.
        tensors: The tensors in the files.
        tables: The tensors with one row per token.
        named_ids: Ids of added tokens, and of tokens that the settings name.
    """

    name: str
    settings: dict[str, dict[str, Any]]
    tokenizer: Any
    encoding: BytePairs
    tensors: dict[str, Stored]
    tables: Tables
    named_ids: frozenset[int]

    @property
    def rows(self) -> int:
        """Number of rows of the tables, padded ones included."""
        return self.tensors[self.tables.inputs].shape[0]


def read_base(config: VocabularyConfig) -> Base:
    """Read a model without its weights.

    Raises:
        ContractError: The model is an adapter, an encoder, or quantised; its files contradict each other; or its tokenizer or
            architecture cannot be changed.
    """
    name, revision = config.model, config.revision
    check_published(name, _CONFIG, revision)
    for file, what in _UNUSABLE.items():
        if optional_file(name, file, revision):
            raise ContractError(f"{name} is {what}")
    settings = {file: read_json(path) for file in (_CONFIG, _GENERATION) if (path := optional_file(name, file, revision))}
    with own_errors(f"{name}: {_CONFIG} cannot be used"):
        shape = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    if getattr(shape, "quantization_config", None):
        raise ContractError(
            f"{name} is quantised: rows of its tables cannot be changed. Start from the model that was quantised"
        )
    tokenizer = load_tokenizer(name, revision)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ContractError(
            f"{name}: {type(tokenizer).__name__} has no tokenizer.json: only byte-pair encodings can be changed"
        )
    encoding = BytePairs(backend, name)
    tensors = read_tensors(weight_files(name, revision))
    tables = find_tables(shape, tensors, name)
    rows = tensors[tables.inputs].shape[0]
    if (largest := max(encoding.tokens.values())) >= rows:
        raise ContractError(f"{name}: the tokenizer's ids go up to {largest:,}, but the model has {rows:,} rows: resize it")
    named = set(encoding.added.values())
    for file, values in settings.items():
        named |= check_ids(values, f"{name}: {file}", encoding.tokens)
    return Base(name, settings, tokenizer, encoding, tensors, tables, frozenset(named))


def write_settings(base: Base, directory: Path, new_ids: Mapping[int, int] | None, rows: int) -> None:
    """Write config.json and generation_config.json, with new ids and a number of rows unless ``new_ids`` is None."""
    for file, values in base.settings.items():
        if new_ids is not None:
            values = renumbered(values, new_ids, {"vocab_size": rows})
            if file == _CONFIG and "vocab_size" not in json.dumps(values):
                values["vocab_size"] = rows
        (directory / file).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(base: Base, encoding: BytePairs, directory: Path, *, normalised: bool) -> None:
    """Write a tokenizer that is loaded unchanged; transformers' classes for architectures would add their own parts."""
    settings = {key: value for key, value in base.tokenizer.init_kwargs.items() if key in _KEPT_SETTINGS}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=encoding.tokenizer, **copy.deepcopy(settings))
    if normalised:
        tokenizer.init_kwargs[TERMS_SETTING] = NORMALISED
    save_tokenizer(tokenizer, directory)
