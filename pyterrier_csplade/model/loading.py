"""Loading of checkpoints: transformers, PEFT adapters, bitsandbytes, torchao, and the contract that comes with them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.vectors.contract import CONTRACT_FILE, Contract, Variant

from .backbone import Backbone
from .hub import check_published, load_tokenizer, optional_file, save_tokenizer
from .selftest import self_test

Quantization = Literal["int8", "nf4", "int8-weight-only"]

_ADAPTER_FILE = "adapter_model.safetensors"

# Rows that bitsandbytes packs together.
_PACKED_ROWS = 32
# Values of each parameter that the digest reads; our choice (not measured).
_SAMPLE = 256


def read_contract(model: str, revision: str | None) -> Contract | None:
    """Read the contract of a hub model or of a directory; None if it has none."""
    found = optional_file(model, CONTRACT_FILE, revision)
    return Contract.load(Path(found)) if found else None


def agree_on_contract(stored: Contract | None, variant: Variant | None, given: Contract | None, source: str) -> Contract | None:
    """Choose the contract: the stored one, if there is one, and nothing may contradict it.

    Raises:
        ContractError: An argument contradicts the stored contract; names both values.
    """
    if given is not None and variant not in (None, given.variant):
        raise ContractError(f"variant={variant!r} contradicts the given contract's variant {given.variant!r}")
    if stored is None:
        return given
    if variant not in (None, stored.variant):
        raise ContractError(
            f"variant={variant!r} contradicts {source}, which was trained as {stored.variant!r}: leave variant out, "
            "or load another checkpoint"
        )
    if given is not None:
        asked = given.to_dict()
        for name, value in stored.to_dict().items():
            if name != "training" and asked[name] != value:
                raise ContractError(f"contract: {name}={asked[name]!r} contradicts {source}, which has {value!r}")
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
    """Load a checkpoint from safetensors files, never from pickles, and prove that it keeps its contract.

    Raises:
        ContractError: A tensor of the checkpoint or the adapter is missing, unexpected or not finite; there is no tokenizer;
            vocabulary or weights differ from the contract's; or the self-test fails.
        FileNotFoundError: The hub has no such model, revision or adapter, or it cannot be reached.
        ValueError: There is no such ``dtype``.
        ImportError: torchao is asked for and not installed.
    """
    device = device or _default_device()
    dtype = to_dtype(dtype, device)
    check_published(model, "config.json", revision)
    if adapter is not None:
        check_published(adapter, "adapter_config.json")
    tokenizer = load_tokenizer(model, revision)
    # Downloads take long, so that progress is always shown.
    with _progress(shown=verbose or not Path(model).is_dir()):
        lm, report = AutoModelForCausalLM.from_pretrained(
            model,
            revision=revision,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            device_map={"": device},
            quantization_config=_quantization_config(quantization, dtype),
        )
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report.get(problem):
            raise ContractError(
                f"{model}: {problem.replace('_', ' ')} in the checkpoint: {sorted(map(str, report[problem]))[:3]}"
            )
    if adapter is not None:
        lm = _add_adapter(lm, adapter)
    if quantization == "nf4":
        _pack_whole_blocks_only(lm)
    digest = weights_digest(lm)
    exact = quantization in (None, "int8-weight-only")  # the checkpoint's own weights were loaded
    if adapter is not None and exact:
        lm = lm.merge_and_unload()
    if quantization == "int8-weight-only":
        _round_linear_layers(lm)
    return prepare_backbone(lm, tokenizer, contract, digest, name=adapter or model, verify=exact and dtype != torch.float16)


def prepare_backbone(
    lm: Any, tokenizer: Any, contract: Contract, digest: str | None = None, *, name: str, verify: bool = True
) -> Backbone:
    """Combine a model and its contract, fill in the digests or compare them, and test the result.

    Args:
        lm: The model.
        tokenizer: Its tokenizer.
        contract: How texts are encoded.
        digest: Digest of the weights; computed from ``lm`` by default.
        name: The model's name in error messages.
        verify: Whether the digest must equal the contract's.

    Raises:
        ContractError: Vocabulary or (with ``verify``) weights differ from the contract's; or the self-test fails.
    """
    digest = digest or weights_digest(lm)
    backbone = Backbone(lm, tokenizer, contract).eval()
    backbone.to(lm.device)
    positions = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
    found = {
        "vocabulary_sha256": backbone.vocabulary.sha256,
        "weights": digest if verify or not contract.weights else contract.weights,
    }
    for key, value in found.items():
        if getattr(contract, key) not in ("", value):
            raise ContractError(
                f"{name}: its {key} is {value[:12]}, but {CONTRACT_FILE} has {getattr(contract, key)[:12]}: "
                "files of different checkpoints were mixed"
            )
    lengths = {"query_length": contract.query_length, "document_length": contract.document_length}
    if positions:
        longest = positions // (2 if contract.variant == "echo" else 1)
        lengths = {name: min(length, longest) for name, length in lengths.items()}
    backbone.contract = contract.replace(**found, **lengths)
    self_test(backbone)
    return backbone


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write model, tokenizer and contract into a directory.

    Raises:
        ContractError: The model is a PEFT model, which saves only its adapter.
    """
    if hasattr(backbone.model, "merge_and_unload"):
        raise ContractError("a PEFT model saves its adapter only: merge it first, model.merge_and_unload()")
    backbone.model.save_pretrained(path)
    save_tokenizer(backbone.tokenizer, path)
    # If an adapter was merged at loading, the contract has the digest of base and adapter, not of their sums that are saved.
    backbone.contract.replace(weights=weights_digest(backbone.model)).save(path)


def weights_digest(lm: Any) -> str:
    """Digest of a model's weights: names, shapes and evenly spaced values of all floating-point parameters, as bfloat16.

    It is the same for float32 and bfloat16 loads of one checkpoint.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(lm.named_parameters()):
        if parameter.is_floating_point():
            values = parameter.detach().flatten()
            sample = values[:: max(1, len(values) // _SAMPLE)].to("cpu", torch.bfloat16)
            digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _progress(*, shown: bool) -> Iterator[None]:
    """Hide the progress bars of transformers unless they are to be shown."""
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
    """Return a torch dtype; "auto" is float32 on a CPU, and stays "auto" elsewhere.

    Raises:
        ValueError: There is no such floating-point type.
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
        # Its autograd functions warn at every product of every layer that the input is cast to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else dtype
        )
    raise ContractError(f"quantization must be None, 'int8', 'nf4' or 'int8-weight-only', found {quantization!r}")


def _pack_whole_blocks_only(lm: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights for a CPU's own kernel where it cannot: rows must be whole blocks."""
    for module in lm.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            state = module.weight.quant_state
            module.support_avx512bf16_for_cpu = state.shape[0] % _PACKED_ROWS == 0 == state.shape[1] % state.blocksize


def _round_linear_layers(lm: Any) -> None:
    """Round the weights of all linear layers but the LM head to int8, one scale for each row; inputs stay as they are."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ImportError("quantization='int8-weight-only' needs torchao: pip install 'pyterrier-csplade[torchao]'") from error
    quantize_(lm.base_model, Int8WeightOnlyConfig())


def _add_adapter(lm: Any, adapter: str) -> Any:
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights

    # Where this file is, PEFT reads it and no pickle.
    if optional_file(adapter, _ADAPTER_FILE) is None:
        raise ContractError(
            f"{adapter} has no {_ADAPTER_FILE}; weights in pickles are never read, save_pretrained writes safetensors"
        )
    config = PeftConfig.from_pretrained(adapter)
    config.inference_mode = True
    weights = load_peft_weights(adapter, device="cpu")
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ContractError(f"{adapter}: the tensor {name} holds values that are not finite")
    wrapped: Any = get_peft_model(lm, config)
    try:
        result = wrapped.load_adapter(adapter, adapter_name="default", is_trainable=False)
    except RuntimeError as error:  # shapes: another rank, or a base model of another width
        raise ContractError(f"{adapter} does not fit the model: {' '.join(str(error).split())[:300]}") from error
    missing = [key for key in result.missing_keys if "lora_" in key]
    if missing or result.unexpected_keys:
        raise ContractError(
            f"{adapter} does not fit the model: {len(missing)} missing tensors {missing[:2]}, "
            f"{len(result.unexpected_keys)} unexpected {result.unexpected_keys[:2]}"
        )
    return wrapped
