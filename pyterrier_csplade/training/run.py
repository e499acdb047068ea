"""The steps that training runs share: output directory, arguments, loading, LoRA, and saving."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, TaskType, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, TrainingArguments, set_seed

from pyterrier_csplade._errors import ConfigError, TrainingError
from pyterrier_csplade.model.checkpoint import Checkpoint
from pyterrier_csplade.model.hub import check_published, load_tokenizer, optional_file, save_tokenizer
from pyterrier_csplade.model.loading import keep_unpacked
from pyterrier_csplade.storage.files import LockedError, locked, write_atomically

from .checkpoints import CHECKPOINTS, step_of, writing
from .config import AdaptationConfig, ContrastiveConfig, LoraSettings, PassageSettings, TrainingConfig, check_batch
from .distributed import barrier, choose_precision, is_first_process, launched_with_deepspeed, start_processes
from .trainer import CurvesTrainer, unsharded

_Phase = TypeVar("_Phase", bound=Callable[..., Path])
_LOCK = ".training.lock"
# Parameters of a query table are named after the attribute of TrainingEncoder, and are none of the model.
_TABLE = "table"


def alone_in_its_output(phase: _Phase) -> _Phase:
    """Decorate a phase so that only one run at a time writes into an output directory.

    The lock works between the processes of one machine. The first process of a run holds it for all of them.
    """

    @wraps(phase)
    def locked_phase(config: TrainingConfig, *, resume: bool = False) -> Path:
        if os.environ.get("RANK", "") not in ("", "0"):
            return phase(config, resume=resume)
        output = _make_directory(config)
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(locked(output / _LOCK, wait=False))
            except LockedError as error:
                raise ConfigError(
                    f"process {error} is training into {output}: wait until it ends, or name another output"
                ) from error
            return phase(config, resume=resume)

    return cast(_Phase, locked_phase)


def open_output(config: TrainingConfig, resume: bool) -> Path:
    """Create the directory of a run.

    Raises:
        ConfigError: The directory cannot be created, or contains checkpoints of another run.
    """
    output = Path(config.output)
    reached = max(map(step_of, (output / CHECKPOINTS).glob("checkpoint-*")), default=None)
    if reached is not None and not resume:
        raise ConfigError(
            f"{output} contains checkpoints of an earlier run, which reached step {reached} of {config.steps}: resume that run "
            f"(resume=True, --resume), remove {output / CHECKPOINTS}, or name another output"
        )
    return _make_directory(config)


def _make_directory(config: TrainingConfig) -> Path:
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: cannot create the directory {output} ({error.strerror}): name another one") from error
    return output


def training_arguments(config: TrainingConfig, *, pieces: int) -> TrainingArguments:
    """Convert a configuration to transformers' arguments, and connect the processes.

    Args:
        config: The run's settings.
        pieces: Number of parts of a process's share of the batch that transformers reads from the data one by one.

    Raises:
        ConfigError: The batch cannot be divided among the processes, there are fewer processes than requested, or DeepSpeed
            would have to shard 4-bit weights.
    """
    use_cpu = not torch.cuda.is_available()
    if config.quantization and launched_with_deepspeed():
        raise ConfigError(
            "quantization: DeepSpeed cannot shard 4-bit weights: launch with FSDP "
            "(examples/configs/accelerate/fsdp-8x40gb.yaml), or with torchrun, which puts a whole quantised model on every GPU"
        )
    processes = start_processes(use_cpu=use_cpu)
    choose_precision(bf16=config.bf16)
    check_batch(config, processes, pieces)
    return _Arguments(
        output_dir=str(Path(config.output) / CHECKPOINTS),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size // (processes * pieces),
        gradient_accumulation_steps=pieces,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        bf16=config.bf16,
        seed=config.seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=config.save_steps,
        report_to=reporters(config.report_to),
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,  # batches are made on the model's device
        ddp_broadcast_buffers=False,  # a step runs the model more than once, and buffers must not change in between
        ddp_find_unused_parameters=False,
        use_cpu=use_cpu,
    )


class _Arguments(TrainingArguments):
    """Arguments for a process with one device. With several, transformers would multiply the batch (DataParallel)."""

    @property
    def n_gpu(self) -> int:
        return min(super().n_gpu, 1)


def check_model(config: TrainingConfig) -> None:
    """Check that a run can use its model and tokenizer, before data is prepared and weights are loaded.

    Raises:
        ConfigError: The model is an adapter or needs code of its own, or its tokenizer fits neither the model nor the settings.
    """
    check_published(config.model, "config.json", config.revision)
    with _named(config):
        if optional_file(config.model, "adapter_config.json", config.revision):
            raise ValueError("it is an adapter: merge it into its base model, and save that with its tokenizer")
        shape = checkpoint_of(config).config().get_text_config()
    for problem in tokenizer_problems(config, load_tokenizer(config.model, config.revision), shape.vocab_size):
        raise ConfigError(problem)


def checkpoint_of(config: TrainingConfig) -> Checkpoint:
    """Return the base model of a run."""
    return Checkpoint(config.model, config.revision, config.layers)


def tokenizer_problems(config: TrainingConfig, tokenizer: Any, rows: int) -> Iterator[str]:
    """Yield the reasons why a tokenizer does not fit the model or the settings of a run."""
    tokens = tokenizer.get_vocab()
    if (largest := max(tokens.values(), default=-1)) >= rows:
        yield (
            f"the tokenizer does not fit the model: its ids go up to {largest:,}, the LM head has {rows:,} rows: resize the "
            "model (resize_token_embeddings) and save it, or use another tokenizer"
        )
    if isinstance(config, (AdaptationConfig, ContrastiveConfig)):
        mask = config.mask_token if isinstance(config, AdaptationConfig) else config.prediction.mask_token
        if config.masks and mask not in tokens:
            yield f"mask_token {mask!r} is not a token of {config.model}: name another token"
    if isinstance(config, AdaptationConfig) and config.pooled:
        yield from _missing_ends(config.passages, tokenizer)
    if isinstance(config, ContrastiveConfig):
        yield from _missing_ends(config, tokenizer)
        for side, prefix in (("query", config.query_prefix), ("document", config.document_prefix)):
            taken = config.add_bos + config.add_eos + len(tokenizer(prefix, add_special_tokens=False)["input_ids"])
            for name in (f"{side}_length", f"encoding_{side}_length"):
                length = getattr(config, name)
                if length is not None and length <= taken:
                    yield f"{name} is {length}, but prefix, BOS and EOS take {taken} tokens: leave room for tokens of a text"


def _missing_ends(settings: ContrastiveConfig | PassageSettings, tokenizer: Any) -> Iterator[str]:
    for flag, token in (("add_bos", "bos_token"), ("add_eos", "eos_token")):
        if getattr(settings, flag) and getattr(tokenizer, token) is None:
            yield f"{flag} is set, but the tokenizer has no {token}"


# Errors that transformers raises for configurations and weights that it cannot use.
_UNUSABLE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError, StrictDataclassError)


@contextlib.contextmanager
def _named(config: TrainingConfig) -> Iterator[None]:
    """Convert transformers' errors about a model that it cannot load to a ConfigError."""
    try:
        yield
    except _UNUSABLE as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ConfigError(f"model {config.model} cannot be used: {' '.join(str(error).split())[:300]}") from error


def load_tokenizer_and_model(
    config: TrainingConfig, attn_implementation: str | None = None, *, quantized: bool = True
) -> tuple[Any, Any]:
    """Load the tokenizer and the model of a run, with a new adapter if one is configured.

    Trained weights are float32. Weights that LoRA freezes are bfloat16 in a bfloat16 run, which halves their memory, or 4 bits
    with ``config.quantization``, unless ``quantized`` is false.
    """
    set_seed(config.seed)
    frozen_bf16 = config.lora is not None and config.bf16
    dtype = torch.bfloat16 if frozen_bf16 else torch.float32
    tokenizer = load_tokenizer(config.model, config.revision)
    quantization = (
        {"quantization_config": _nf4(dtype), "device_map": {"": PartialState().device}}
        if config.quantization and quantized
        else {}
    )
    with _named(config):
        model, report = checkpoint_of(config).load(dtype=dtype, attn_implementation=attn_implementation, **quantization)
        if missing := sorted(map(str, report["missing_keys"])):
            raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}, and would start at random")
    keep_unpacked(model, config.model)
    if config.freeze_embeddings:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.requires_grad_(False)
    if config.gradient_checkpointing:
        # transformers 5.23 renamed the method, and the old name warns. Non-reentrant checkpointing supports frozen embeddings.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)({"use_reentrant": False})
    return tokenizer, add_lora(model, config.lora) if config.lora else model


def attention_for_short_texts() -> str | None:
    """Return the attention implementation for training on short texts; None lets transformers choose.

    On a CPU, the backward pass of torch's fused attention takes several times as long as plain products.
    """
    return None if torch.cuda.is_available() else "eager"


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the settings that quantise frozen weights to 4 bits, including their scales, as in QLoRA (arXiv 2305.14314).

    FSDP shards floating-point tensors only, so every process holds all of these bytes. If they were stored as bfloat16, FSDP2
    would shard them, but change byte patterns that are NaN (bitsandbytes issue 1945).
    """
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def whole_model(config: TrainingConfig, weights: dict[str, Tensor], *, quantized: bool = False) -> Any:
    """Load the model of a run again, unsharded, with the trained weights.

    Args:
        config: The run's settings.
        weights: Weights from ``CurvesTrainer.trained_weights``. Their names begin with the name of a module around the model.
        quantized: Whether to quantise frozen weights that were quantised in training.
    """
    with unsharded():
        model = load_tokenizer_and_model(config, quantized=quantized)[1]
    weights = {name: w for name, w in weights.items() if not name.startswith(f"{_TABLE}.")}
    unexpected = model.load_state_dict({name.partition(".")[2]: w.cpu() for name, w in weights.items()}, strict=False)
    if unexpected.unexpected_keys or not weights:
        raise TrainingError(f"the trained weights do not fit the model: {unexpected.unexpected_keys[:2]}")
    return model


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """Wrap a model with a new adapter, and freeze all other weights except embeddings and head that the settings train.

    Raises:
        ConfigError: A target module does not exist.
    """
    check_target_modules(linear_layers(model), settings.target_modules)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha or 2 * settings.rank,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
            task_type=TaskType.CAUSAL_LM,
        ),
    )
    if settings.embeddings:
        # Not with modules_to_save, which copies both tables and so separates tied ones.
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.weight.data = module.weight.data.float()
            module.requires_grad_(True)
    return adapted


def save_run(model: Any, tokenizer: Any, config: TrainingConfig) -> Any:
    """Save the model with its adapter merged, the tokenizer and the configuration. Return the merged model."""
    output = Path(config.output)
    if config.lora:
        model = model.merge_and_unload()
    with writing(output, "the last checkpoint contains the whole run: free space, and resume with resume=True or --resume"):
        model.save_pretrained(output)
        save_tokenizer(tokenizer, output)
        write_atomically(output / "training_config.json", (json.dumps(asdict(config), indent=2) + "\n").encode())
    return model


def save_adapted(trainer: CurvesTrainer, model: Any, tokenizer: Any, config: TrainingConfig) -> None:
    """Save the language model of a run in the first process, while the others wait."""
    weights = trainer.trained_weights()
    if is_first_process():
        reloaded = trainer.sharded or config.quantization
        save_run(whole_model(config, weights) if reloaded else model, tokenizer, config)
    barrier()


def linear_layers(model: Any) -> dict[str, Any]:
    """Return the linear layers of a model by path, without the LM head."""
    head = model.get_output_embeddings()
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head}


def check_target_modules(linear: Iterable[str], target_modules: Iterable[str]) -> None:
    """Check that a model has the layers that LoRA adapts.

    Args:
        linear: Paths of the model's linear layers, without the LM head.
        target_modules: Names of the adapted layers.

    Raises:
        ConfigError: The model has no layer with a name; the message lists the layers.
    """
    found = {path.rpartition(".")[2] for path in linear}
    for name in target_modules:
        if name not in found:
            raise ConfigError(f"lora: target_modules: the model has no {name!r}; its linear layers: {', '.join(sorted(found))}")


def reporters(report_to: list[str] | None) -> list[str]:
    """Return the names of transformers' integrations to use: the configured ones, or TensorBoard if it is installed.

    Raises:
        ConfigError: An integration is unknown or not installed.
    """
    if report_to is None:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        get_reporting_integration_callbacks(report_to)
    except ValueError as error:
        raise ConfigError(f"report_to: {error}") from error
    for name in report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"report_to: {name} is not installed: pip install {name}")
    return report_to
