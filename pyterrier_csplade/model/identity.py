"""The identity of an encoder: one digest of everything that its vectors depend on except the contract.

The digest covers the values of all tensors, the configuration, the tokenizer, and the settings and tensors of an adapter. It
does not cover what changes no vector: names, paths, versions, dropout, the division of tensors into files, and the dtype in
which they are stored. A tensor of 16 or 32 bits is digested as bfloat16 if all of its values fit, and as float32 otherwise. A
model that was loaded as float32 (or in the dtype of its files) therefore has the digest of its directory, and a directory that
was saved from a pair of model and tokenizer has the digest of the pair. A model that was rounded or quantised before has a
different digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.storage.cache import cache_directory
from pyterrier_csplade.storage.files import read_json, write_atomically
from pyterrier_csplade.vectors.contract import WHOLE, Contract

from .transformers_internals import as_saved

# Number of values that are digested at once; our choice (not measured).
_PIECE = 2**22
# Size in bytes from which the digests of a checkpoint are kept in a file; our choice (measured: smaller ones take half a
# second).
_KEPT_FROM = 2**28
_DIGESTS_FILE = ".csplade_digests.json"
# Settings that change no vector. ``is_causal`` follows from the contract.
_NO_EFFECT = frozenset({
    "_name_or_path", "architectures", "attn_implementation", "_attn_implementation", "auto_map", "bos_token_id",
    "chunk_size_feed_forward", "decoder_start_token_id", "dtype", "eos_token_id", "id2label", "initializer_range", "is_causal",
    "label2id", "num_labels", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type",
    "quantization_config", "return_dict", "sep_token_id", "torch_dtype", "transformers_version", "use_cache",
    # of adapters
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "init_lora_weights",
    "loftq_config", "megatron_config", "megatron_core", "peft_version", "revision", "runtime_config", "task_type",
})  # fmt: skip
_NO_EFFECT_ENDINGS = ("dropout", "pdrop", "layerdrop")
# Parts of tokenizer.json that determine tokens.
_TOKENIZER_PARTS = ("normalizer", "pre_tokenizer", "model", "added_tokens")
# Number of values of each parameter that the digest of version 0.1.0 covers.
_SAMPLE = 256


def identity(
    tensors: Mapping[str, str], config: Any, tokenizer: Any, contract: Contract, adapter: tuple[Any, Mapping[str, str]] | None
) -> str:
    """Digest a model.

    Args:
        tensors: Digest of each tensor by name.
        config: The model's configuration.
        tokenizer: The model's tokenizer.
        contract: The contract; only its special tokens are used.
        adapter: Settings of an adapter (PEFT), and digests of its tensors.
    """
    parts = [
        sorted(tensors.items()),
        _settings(config),
        tokens_digest(tokenizer),
        tokenizer.bos_token_id if contract.add_bos else None,
        tokenizer.eos_token_id if contract.add_eos else None,
        adapter and [_settings(adapter[0]), sorted(adapter[1].items())],
    ]
    return WHOLE + hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def identity_of_pair(lm: Any, tokenizer: Any, contract: Contract, name: str) -> str:
    """Digest a model in memory, including the settings of unmerged PEFT adapters."""
    adapters = getattr(lm, "peft_config", None)
    settings = {key: _settings(config) for key, config in (adapters or {}).items()}
    adapter: tuple[Any, Mapping[str, str]] | None = (settings, {}) if settings else None
    return identity(digests(saved_tensors(lm).items(), name), lm.config, tokenizer, contract, adapter)


def tensors_of_checkpoint(lm: Any, files: Sequence[Path], name: str) -> dict[str, str]:
    """Digest those tensors of a checkpoint's files that a model uses."""
    return used_tensors(lm, digests_of_files(files, name))


def used_tensors(lm: Any, found: Mapping[str, str]) -> dict[str, str]:
    """Select the digests of those tensors of a checkpoint that a model uses."""
    wanted = {key for key, _ in lm.named_parameters()}
    if wanted <= found.keys():  # the others are copies of tied weights, and obsolete buffers
        stored = {key for key, _ in lm.named_buffers()}
        return {key: digest for key, digest in found.items() if key in wanted or key in stored}
    return dict(found)  # transformers renames or joins the tensors of this architecture


def digests(tensors: Iterable[tuple[str, Tensor]], name: str) -> dict[str, str]:
    """Digest tensors, several in parallel.

    Raises:
        ContractError: A value is not finite.
    """
    named = list(tensors)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return dict(zip((key for key, _ in named), threads.map(lambda item: _digest(item[0], item[1], name), named)))


def tokens_digest(tokenizer: Any) -> str:
    """Digest what determines the tokens of a text: normalisation, pre-tokenisation, vocabulary, merges, and added tokens."""
    digest = hashlib.sha256()
    settings: list[Any]
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        state = json.loads(backend.to_str())
        model = state["model"]
        merges = model.pop("merges", [])
        vocabulary = model.pop("vocab", [])
        if isinstance(vocabulary, dict):
            vocabulary = sorted(vocabulary, key=vocabulary.__getitem__), sorted(vocabulary.values())
        # Older versions of the library tokenizers write a merge as one string.
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
        digest.update(json.dumps([vocabulary, merges]).encode())
        settings = [state[part] for part in _TOKENIZER_PARTS]
    else:
        added = {token: str(value) for token, value in tokenizer.added_tokens_decoder.items()}
        kept = {key: str(value) for key, value in tokenizer.init_kwargs.items() if not _is_place(key, value)}
        settings = [type(tokenizer).__name__, tokenizer.get_vocab(), added, kept]
        for attribute in ("sp_model", "_tokenizer"):
            with contextlib.suppress(AttributeError):
                digest.update(getattr(tokenizer, attribute).serialized_model_proto())
    settings = [_without_nothing(settings), bool(getattr(tokenizer, "split_special_tokens", False))]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def sampled_digest(lm: Any) -> str:
    """Digest a model's weights as version 0.1.0 did.

    The digest covers the names, shapes and evenly spaced values of all floating-point parameters, as bfloat16. It is the same
    whether a checkpoint is loaded as float32 or as bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(lm.named_parameters()):
        if parameter.is_floating_point():
            values = parameter.detach().flatten()
            sample = values[:: max(1, len(values) // _SAMPLE)].to("cpu", torch.bfloat16)
            digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def saved_tensors(lm: Any) -> dict[str, Tensor]:
    """Return a model's tensors by the names under which it saves them, and tied tensors once."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in lm.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            first.setdefault(id(tensor), (name, tensor))
    return as_saved(lm, dict(first.values()))


def _digest(key: str, tensor: Tensor, name: str) -> str:
    values = tensor.detach().flatten()
    dtype = values.dtype
    if dtype in (torch.float16, torch.float32):
        dtype = torch.bfloat16 if all(map(_fits_bfloat16, torch.split(values, _PIECE))) else torch.float32
    digest = hashlib.sha256(f"{dtype}{tuple(tensor.shape)}".encode())
    for piece in torch.split(values, _PIECE) if len(values) else ():
        piece = piece.to("cpu", dtype).contiguous()
        # A sum is fast, and not finite if a value is not. It may also overflow.
        if dtype in (torch.bfloat16, torch.float32) and not piece.sum(dtype=torch.float32).isfinite():
            if not piece.isfinite().all():
                raise ContractError(f"{name}: the tensor {key} holds values that are not finite: copy the checkpoint again")
        digest.update(piece.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fits_bfloat16(piece: Tensor) -> bool:
    return not bool((piece.float().view(torch.int32) & 0xFFFF).any())


def digests_of_files(files: Sequence[Path], name: str) -> dict[str, str]:
    """Digest the tensors of files. Large files are read again only if their size or modification time has changed."""
    states = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    places = [] if sum(size for size, _ in states.values()) < _KEPT_FROM else _places(files[0].parent)
    for place in places:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = read_json(place)
            if kept["files"] == states:
                return {str(key): str(digest) for key, digest in kept["tensors"].items()}
    found: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                found |= digests(((key, opened.get_tensor(key)) for key in opened.keys()), name)  # noqa: SIM118
        except SafetensorError as error:
            raise ContractError(f"{file} is damaged ({error}): copy it again") from error
    for place in places:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, json.dumps({"files": states, "tensors": found}).encode())
            break
    return found


def _places(directory: Path) -> list[Path]:
    """Return the possible places of the digests of a directory's files: beside them, and in the user's cache."""
    return [
        directory / _DIGESTS_FILE,
        cache_directory() / f"{hashlib.sha256(str(directory.resolve()).encode()).hexdigest()}.json",
    ]


def _settings(config: Any) -> dict[str, Any]:
    """Return the settings that may change vectors and differ from the architecture's defaults."""
    if isinstance(config, dict):
        return config
    try:
        defaults = type(config)().to_dict()
    except Exception:  # no defaults in this architecture
        defaults = {}
    return _kept(config.to_dict(), defaults)


def _kept(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        default = defaults.get(key)
        if value is None or value == default or key in _NO_EFFECT or key.endswith(_NO_EFFECT_ENDINGS):
            continue
        if isinstance(value, (set, frozenset)) or key in ("target_modules", "modules_to_save"):
            value = sorted(value) if not isinstance(value, str) else value
        kept[key] = _kept(value, default if isinstance(default, dict) else {}) if isinstance(value, dict) else value
    return kept | {"model_type": values.get("model_type"), "peft_type": values.get("peft_type")}


def _without_nothing(value: Any) -> Any:
    """Remove entries that are false or empty, because newer versions of the library tokenizers add some."""
    if isinstance(value, dict):
        return {key: _without_nothing(part) for key, part in value.items() if part or part == 0 and part is not False}
    return [_without_nothing(part) for part in value] if isinstance(value, (list, tuple)) else value


def _is_place(key: str, value: Any) -> bool:
    return key.endswith(("_file", "name_or_path", "_commit_hash")) or key in ("is_local", "local_files_only", "tokenizer_class")
