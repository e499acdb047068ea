"""Loading of checkpoints and their contracts, with transformers, PEFT, bitsandbytes and torchao."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.vectors.contract import CONTRACT_FILE, WHOLE, Contract, Layers, Variant

from .adapters import Adapter, merge_adapter, read_adapter
from .backbone import Backbone
from .checkpoint import Checkpoint
from .hub import check_published, is_gguf, load_tokenizer, optional_file, own_errors, save_tokenizer, weight_files
from .identity import identity, identity_of_pair, sampled_digest, tensors_of_checkpoint
from .probes import compare_probes, probe_vectors
from .selftest import self_test

Quantization = Literal["int8", "nf4", "int8-weight-only"]


def read_contract(model: str, revision: str | None) -> Contract | None:
    """Read the contract of a hub model or a directory; None if there is no contract."""
    found = optional_file(model, CONTRACT_FILE, revision)
    return Contract.load(Path(found)) if found else None


def agree_on_contract(
    stored: Contract | None, variant: Variant | None, layers: Layers | None, given: Contract | None, source: str
) -> Contract | None:
    """Return the stored contract, or else the given one, after a check that the arguments do not contradict it.

    Raises:
        ContractError: An argument contradicts the contract; the message names both values.
    """
    if given is not None and variant not in (None, given.variant):
        raise ContractError(f"variant={variant!r} contradicts the given contract's variant {given.variant!r}")
    if given is not None and layers is not None and given.replace(layers=layers) != given:
        raise ContractError(f"layers={layers!r} contradicts the given contract, which has {given.layers!r}")
    if stored is None:
        return given
    if layers is not None and stored.replace(layers=layers) != stored:
        raise ContractError(
            f"layers={layers!r} contradicts {source}, which was trained with "
            f"{'all of its layers' if stored.layers is None else f'layers={stored.layers!r}'}: leave layers out"
        )
    if variant not in (None, stored.variant):
        raise ContractError(
            f"variant={variant!r} contradicts {source}, which was trained as {stored.variant!r}: leave variant out, "
            "or load another checkpoint"
        )
    if given is not None:
        asked = given.to_dict()
        for name, value in {**dict.fromkeys(asked), **stored.to_dict()}.items():
            if name not in ("training", "weights", "other_weights") and asked.get(name) != value:
                raise ContractError(f"contract: {name}={asked.get(name)!r} contradicts {source}, which has {value!r}")
        if given.weights and stored.weights and not given.matches(stored):
            raise ContractError(f"contract: weights={given.weights!r} contradicts {source}, which has {stored.weights!r}")
    return stored


def load_backbone(
    model: str,
    *,
    adapter: str | None,
    revision: str | None,
    contract: Contract,
    quantization: Quantization | None,
    dtype: str | torch.dtype,
    device: str | None,
    attn_implementation: str | None,
    verbose: bool = False,
) -> Backbone:
    """Load a checkpoint from safetensors files, never from pickles, and test that it encodes as its contract says.

    Raises:
        ContractError: A tensor of the checkpoint or the adapter is missing, unexpected or not finite; there is no tokenizer;
            the vocabulary or the weights differ from the contract; or the self-test fails.
        FileNotFoundError: The hub has no such model, revision or adapter, or cannot be reached.
        ValueError: ``dtype`` is unknown.
        ImportError: ``quantization`` needs torchao, which is not installed.
    """
    device = device or _default_device()
    dtype = to_dtype(dtype, device)
    checkpoint = Checkpoint(model, revision, contract.layers)
    added, tokenizer = _read_files(model, revision, adapter)
    # Progress is always shown for downloads, because they take long.
    with (
        _progress(shown=verbose or not Path(model).exists()),
        own_errors(f"{model}: the model cannot be loaded: are its configuration and its weights there and whole?"),
    ):
        lm, report = checkpoint.load(
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map={"": device},
            quantization_config=_quantization_config(quantization, dtype),
        )
    _refuse_problems(report, model)
    digest = identity(checkpoint.digests(lm), lm.config, tokenizer, contract, None if added is None else added.identity)
    if added is not None:
        added.check_vocabulary(lm, tokenizer)
        lm = added.put_on(lm)
    exact = quantization in (None, "int8-weight-only")  # the weights were loaded without rounding
    sampled = sampled_digest(lm) if exact and dtype != torch.float16 else ""
    if added is not None and exact:
        lm = merge_adapter(lm)
    if quantization == "int8-weight-only":
        _round_linear_layers(lm)
    if added is not None and not contract.weights:
        _warn_of_another_base(added, model)
    return prepare_backbone(
        lm, tokenizer, contract, digest, name=adapter or model, sampled=sampled, quantized=quantization is not None
    )


def _read_files(model: str, revision: str | None, adapter: str | None) -> tuple[Adapter | None, Any]:
    """Return the adapter and the tokenizer, which may come with the adapter, after a check that the model has weights."""
    check_published(model, "config.json", revision)
    if optional_file(model, "adapter_config.json", revision) is not None:
        raise ContractError(f"{model} contains an adapter: CSPLADE(base model, adapter={model!r}) loads it")
    added = None if adapter is None else read_adapter(adapter)
    if not is_gguf(model):
        weight_files(model, revision)
    if adapter is not None and optional_file(adapter, "tokenizer_config.json") is not None:
        return added, load_tokenizer(adapter)
    return added, load_tokenizer(model, revision)


def _refuse_problems(report: dict[str, Any], model: str) -> None:
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report.get(problem):
            raise ContractError(
                f"{model}: {problem.replace('_', ' ')} in the checkpoint: "
                f"{sorted(map(str, report[problem]))[:3]}: copy it again"
            )


def prepare_backbone(
    lm: Any,
    tokenizer: Any,
    contract: Contract,
    digest: str | None = None,
    *,
    name: str,
    sampled: str | None = None,
    quantized: bool = False,
) -> Backbone:
    """Combine a model with its contract, set or compare the digests, and test the result.

    Args:
        lm: The model.
        tokenizer: The tokenizer.
        contract: The contract of the model.
        digest: Digest of the whole model; by default computed from the model in memory.
        name: The model's name in error messages.
        sampled: Digest of the model in the form of version 0.1.0, empty if the weights in memory are rounded; computed by
            default.
        quantized: Whether linear layers have weights in 4 or 8 bits.

    Raises:
        ContractError: The vocabulary, the digest or the vectors of the probes differ from the contract; the tokenizer does not
            support the contract; or the self-test fails.
    """
    _check_pair(lm, tokenizer, name)
    keep_unpacked(lm, name)
    with own_errors(f"{name}: model and tokenizer do not fit together"):
        backbone = Backbone(lm, tokenizer, contract).eval()
        backbone.to(lm.device)
    rounded = digest is None and lm.dtype != torch.float32
    sampled = sampled_digest(lm) if sampled is None else sampled
    digest = digest or identity_of_pair(lm, tokenizer, contract, name)
    backbone.contract = contract.replace(
        vocabulary_sha256=_agreed("vocabulary_sha256", backbone.vocabulary_sha256, contract.vocabulary_sha256, name),
        **_agreed_digests(contract, digest, sampled, name, rounded=rounded),
        query_length=backbone.longest(contract.query_length),
        document_length=backbone.longest(contract.document_length),
    )
    with own_errors(f"{name}: the model fails when it runs: are its files whole, and does config.json fit them?"):
        self_test(backbone)
        compare_probes(backbone, name, quantized=quantized)
    backbone.contract = backbone.contract.replace(probes=())
    contract.warn_if_older(f"{name}: {CONTRACT_FILE}")
    return backbone


def _check_pair(lm: Any, tokenizer: Any, name: str) -> None:
    """Refuse weights that are not in memory, and a tokenizer that divides a text differently each time."""
    if any(parameter.is_meta for parameter in lm.parameters()):
        raise ContractError(f"{name}: its weights are not in memory (device meta): load the model onto a device first")
    dropout = getattr(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), "dropout", None)
    if dropout:
        raise ContractError(
            f"{name}: its tokenizer leaves out merges at random (BPE dropout of {dropout:g}), so that a text has no fixed "
            "vector: set dropout of the model in tokenizer.json to null"
        )


def _agreed(key: str, found: str, stored: str, name: str) -> str:
    if stored not in ("", found):
        raise ContractError(
            f"{name}: its {key} is {found[:12]}, but {CONTRACT_FILE} has {stored[:12]}: files of different checkpoints were "
            "mixed, or one was changed (weights cover tensors, configuration, tokenizer and adapter): copy the checkpoint again"
        )
    return found


def _agreed_digests(contract: Contract, digest: str, sampled: str, name: str, *, rounded: bool) -> dict[str, str]:
    """Compare the digests of a model with the digests in its contract, and return both kinds.

    ``sampled`` is the digest in the form of version 0.1.0, empty if unknown. With ``rounded``, the weights may have been
    rounded since they were saved. The field ``weights`` keeps the contract's kind of digest.
    """
    older = contract.other_weights
    if contract.weights and not contract.weights.startswith(WHOLE):
        kept = _agreed("weights", sampled or contract.weights, contract.weights, name)
        return {"weights": kept, "other_weights": digest}
    if rounded and contract.weights not in ("", digest) and older:
        _agreed("weights", sampled, older, name)
        digest = contract.weights
    return {"weights": _agreed("weights", digest, contract.weights, name), "other_weights": older or sampled}


def _warn_of_another_base(adapter: Adapter, model: str) -> None:
    named = adapter.base
    if named and Path(model).resolve().name.lower() not in (Path(named).name.lower(), Path(named).resolve().name.lower()):
        warn(
            f"{adapter.name} names {named!r} as its base model, but is loaded with {model!r}. Its vectors are wrong "
            "unless both are the same model. If they are, correct base_model_name_or_path in adapter_config.json"
        )


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write model, tokenizer and contract into a directory.

    Raises:
        ContractError: The model is a PEFT model, which would save only its adapter.
    """
    if hasattr(backbone.model, "merge_and_unload"):
        raise ContractError("a PEFT model saves its adapter only: merge it first, model.merge_and_unload()")
    backbone.model.save_pretrained(path)
    save_tokenizer(backbone.tokenizer, path)
    save_contract(backbone, path)


def save_contract(backbone: Backbone, path: Path) -> None:
    """Write a model's contract, with the digest of its files and its probes, into the directory in which it was saved."""
    lm, contract = backbone.model, backbone.contract
    # Read from the files, because the model in memory may differ: an adapter may have been merged.
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    tensors = tensors_of_checkpoint(lm, weight_files(str(path)), str(path))
    digest = identity(tensors, config, load_tokenizer(str(path)), contract, None)
    digests = {"weights": digest, "other_weights": sampled_digest(lm)}
    contract.replace(**digests, layers=None, probes=probe_vectors(backbone)).save(path)  # the files have only these layers


@contextlib.contextmanager
def _progress(*, shown: bool) -> Iterator[None]:
    """Hide transformers' progress bars unless ``shown`` is true."""
    if shown or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def to_dtype(dtype: str | torch.dtype, device: str) -> torch.dtype | Literal["auto"]:
    """Return a torch dtype. "auto" becomes float32 on a CPU, and stays "auto" elsewhere.

    Raises:
        ValueError: ``dtype`` is not a floating-point type.
    """
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype must be 'auto' or a floating-point type such as 'bfloat16', found {dtype!r}")
    return found


def _quantization_config(quantization: Quantization | None, dtype: torch.dtype | Literal["auto"]) -> BitsAndBytesConfig | None:
    if quantization in (None, "int8-weight-only"):
        return None
    if quantization == "int8":
        # bitsandbytes warns at every product that the input is cast to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else dtype
        )
    raise ContractError(f"quantization must be None, 'int8', 'nf4' or 'int8-weight-only', found {quantization!r}")


def keep_unpacked(lm: Any, name: str) -> None:
    """Stop bitsandbytes from packing 4-bit weights for its CPU kernel, which saves no time (measured with csplade-small).

    Packing blocks gradients and fails for some shapes. What is worse, ``state_dict()`` unpacks the weights, and the model then
    silently computes something else (bitsandbytes 0.50).

    Args:
        lm: The model.
        name: The model's name in error messages.

    Raises:
        ContractError: Weights are packed already.
    """
    for module in lm.modules():
        if getattr(getattr(getattr(module, "weight", None), "quant_state", None), "packing_format_for_cpu", False):
            raise ContractError(
                f"{name}: bitsandbytes has packed its 4-bit weights for a CPU, and reading packed weights breaks "
                'a model: load it with CSPLADE(..., quantization="nf4"), or wrap it before it is used'
            )
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _round_linear_layers(lm: Any) -> None:
    """Round the weights of all linear layers except the LM head to int8, with one scale per row. Inputs are not rounded."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError("quantization='int8-weight-only' needs torchao: pip install 'pyterrier-csplade[torchao]'") from error
    quantize_(lm.base_model, Int8WeightOnlyConfig())
