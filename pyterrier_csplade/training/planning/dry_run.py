"""The dry run: checks a whole configuration in seconds."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import ConfigError, CspladeError
from pyterrier_csplade.data.directory import CollectionFiles
from pyterrier_csplade.data.sources import find_dataset
from pyterrier_csplade.training.batches import part_size, part_tokens
from pyterrier_csplade.training.config import (
    AdaptationConfig,
    ContrastiveConfig,
    TrainingConfig,
    ValidationSettings,
    check_batch,
)
from pyterrier_csplade.training.monitoring.validation import judged_topics
from pyterrier_csplade.training.run import reporters

from .cost import Load, Method, find_gpu
from .plan import Plan
from .sample import CorpusSample, RowSample, sample_corpus, sample_rows
from .shape import ModelShape, model_shape, read_model_config


@dataclass(frozen=True)
class _Base:
    """What is known of the model that a run starts from."""

    shape: ModelShape | None
    tokenizer: Any


def dry_run(config: TrainingConfig, *, gpu: str = "h100", gpus: int = 1, fsdp: bool = False, like: str | None = None) -> Plan:
    """Check a configuration and its data and estimate what the run costs; loads no weights and touches no accelerator.

    Data files are sampled from their beginning. Datasets of ``irds:`` are not read, because that may download them.

    Args:
        config: An ``AdaptationConfig`` or a ``ContrastiveConfig``.
        gpu: Name of the accelerator for the estimate.
        gpus: How many processes share a batch.
        fsdp: Whether they also share weights, gradients and optimizer states.
        like: Hub id or directory of a model of the same shape, where that of the configuration does not exist yet.

    Returns:
        The plan; ``problems`` is empty if the run can start.

    Raises:
        ConfigError: The accelerator is not known, or the batch cannot be divided among so many.
    """
    plan = Plan(gpu=find_gpu(gpu), gpus=gpus)
    if gpus < 1:
        raise ConfigError(f"gpus must be positive, found {gpus}")
    check_batch(config, gpus, config.gradient_accumulation_steps if isinstance(config, AdaptationConfig) else 1)
    base = _check_model(config, like, plan)
    method = Method(
        rank=config.lora.rank if config.lora else None,
        bf16=config.bf16,
        checkpointing=config.gradient_checkpointing,
        four_bit=config.quantization == "nf4",
        shards=gpus if fsdp else 1,
        dropout=config.lora is not None and config.lora.dropout > 0,
    )
    _describe_method(config, method, base, plan)
    load = _check_data(config, base, plan, sharded=fsdp)
    _check_output(config, base, plan)
    try:
        reporters(config.report_to)
    except ConfigError as error:
        plan.problems.append(str(error))
    if base.shape and load:
        plan.add_cost(base.shape, method, load, config.steps)
    return plan


def _check_model(config: TrainingConfig, like: str | None, plan: Plan) -> _Base:
    from pyterrier_csplade.model.hub import load_tokenizer

    shape, tokenizer, name = None, None, config.model
    targets = config.lora.target_modules if config.lora else ()
    try:
        read_model_config(config.model, config.revision)
    except ConfigError as error:
        if like is None:
            plan.problems.append(f"{error}. With --like, another model gives the shape for an estimate")
        else:
            plan.warnings.append(str(error))
        name = like or ""
    if name:
        try:
            revision = config.revision if name == config.model else None
            found, published = read_model_config(name, revision)
            shape = model_shape(found, targets)
            note = " (published shape: the hub was not reached)" if published else ""
            plan.facts.append(
                ("model", f"{name}{note}: {shape.parameters / 1e9:,.3g} billion parameters, {shape.layers} layers")
            )
            tokenizer = None if published else load_tokenizer(name, revision)
        except (CspladeError, OSError, ValueError) as error:
            plan.problems.append(" ".join(str(error).split())[:300])
    if tokenizer is not None and shape is not None:
        _check_tokenizer(config, tokenizer, shape, plan)
    return _Base(shape, tokenizer)


def _check_tokenizer(config: TrainingConfig, tokenizer: Any, shape: ModelShape, plan: Plan) -> None:
    from pyterrier_csplade.vectors.vocabulary import Vocabulary

    tokens = tokenizer.get_vocab()
    largest = max(tokens.values(), default=-1)
    if largest >= shape.vocabulary:
        plan.problems.append(
            f"the tokenizer does not fit the model: its ids go up to {largest:,}, the LM head has {shape.vocabulary:,} rows"
        )
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    terms = Vocabulary.from_tokens(tokens, special_ids=special, size=shape.vocabulary)
    plan.facts.append(("vocabulary", f"{len(terms):,} index terms of {shape.vocabulary:,} rows of the head"))
    if isinstance(config, ContrastiveConfig):
        for flag, token in (("add_bos", "bos_token"), ("add_eos", "eos_token")):
            if getattr(config, flag) and getattr(tokenizer, token) is None:
                plan.problems.append(f"{flag} is set, but the tokenizer has no {token}")
        longest = max(config.query_length, config.document_length) * (2 if config.variant == "echo" else 1)
    elif isinstance(config, AdaptationConfig):
        longest = config.sequence_length
        if config.objective == "mntp" and config.mask_token not in tokens:
            plan.problems.append(f"mask_token {config.mask_token!r} is no token of the tokenizer: name one that is")
    else:
        longest = 0
    if shape.positions and longest > shape.positions:
        plan.warnings.append(f"sequences of up to {longest:,} tokens, but the model has {shape.positions:,} positions")


def _describe_method(config: TrainingConfig, method: Method, base: _Base, plan: Plan) -> None:
    if base.shape is None:
        return
    trained = base.shape.adapted * method.rank if method.rank else base.shape.parameters
    how = f"LoRA of rank {method.rank}" if method.rank else "all parameters"
    plan.facts.append(("trained", f"{trained / 1e6:,.1f} million parameters ({how}{', nf4 base' if method.four_bit else ''})"))


def _check_data(config: TrainingConfig, base: _Base, plan: Plan, *, sharded: bool) -> Load | None:
    if isinstance(config, ContrastiveConfig):
        if config.validation:
            _check_validation(config.validation, plan)
        return _contrastive_load(config, sample_rows(config, base.tokenizer, plan), plan.gpus, sharded=sharded)
    if isinstance(config, AdaptationConfig):
        sample = sample_corpus(config, base.tokenizer, plan)
        return _adaptation_load(config, sample, plan)
    return None


def _check_validation(settings: ValidationSettings, plan: Plan) -> None:
    """Look for the collection and the queries of the split; its documents are read when the run starts."""
    try:
        if Path(settings.collection).is_dir():
            files = CollectionFiles(settings.collection)
            queries = min(
                len(judged_topics(files.topics(settings.split), files.qrels(settings.split), settings)), settings.queries
            )
            plan.facts.append(("validation", f"{queries:,} queries every {settings.steps:,} steps"))
        else:
            find_dataset(settings.collection)
    except (CspladeError, OSError) as error:
        plan.problems.append(f"validation: {error}")


def _contrastive_load(config: ContrastiveConfig, sample: RowSample, gpus: int, *, sharded: bool) -> Load:
    queries = config.batch_size / gpus
    copies = 2 if config.variant == "echo" else 1
    passages = queries * (1 + sample.negatives)
    tokens = queries * sample.query_tokens + passages * sample.document_tokens
    cached = sharded or config.gradient_accumulation_steps > 1  # graphs of sharded models are never kept
    part = part_size(passages, config.gradient_accumulation_steps, accelerator=True)
    together = copies * min(part * sample.longest, part_tokens(config.document_length))
    live = copies * sample.padding * tokens
    return Load(
        tokens=copies * tokens,
        live_tokens=together if cached else live,
        head_tokens=tokens,
        texts=queries + passages,
        length=copies * sample.document_tokens,
        forwards=int(cached),
        part_tokens=together if cached else min(together, live),
        live_texts=part if cached else queries + passages,
        accumulates=cached or gpus > 1,
    )


def _adaptation_load(config: AdaptationConfig, sample: CorpusSample, plan: Plan) -> Load:
    tokens = config.batch_size * config.sequence_length / plan.gpus
    live = tokens / config.gradient_accumulation_steps
    if sample.tokens:
        epochs = config.steps * config.batch_size * config.sequence_length / sample.tokens
        plan.facts.append(("passes", f"{epochs:,.2f} over the corpus"))
    predicted = 1.0 if config.objective == "clm" else config.mask_rate + config.visible_rate
    return Load(
        tokens=tokens,
        live_tokens=live,
        head_tokens=tokens * predicted,
        texts=0,
        length=config.sequence_length / (2 if config.objective == "clm" else 1),
        every_logit=True,
        accumulates=config.gradient_accumulation_steps > 1 or plan.gpus > 1,
    )


def _check_output(config: TrainingConfig, base: _Base, plan: Plan) -> None:
    from pyterrier_csplade.training.checkpoints import CHECKPOINTS, last_checkpoint

    output = Path(config.output)
    if (checkpoint := last_checkpoint(output / CHECKPOINTS)) is not None:
        plan.warnings.append(f"{output} holds {checkpoint.name}: the run needs --resume, or another output")
    existing = next((path for path in (output, *output.absolute().parents) if path.exists()), Path("/"))
    if not existing.is_dir():
        plan.problems.append(f"output: {existing} is a file, and {output} would be a directory: name another one")
        return
    if not os.access(existing, os.W_OK):
        plan.problems.append(f"{existing} cannot be written")
    if base.shape is None:
        return
    trained = base.shape.adapted * config.lora.rank if config.lora else base.shape.parameters
    # The model itself, and two checkpoints of float32 weights with two moments, and a third while it is written.
    need = base.shape.parameters * (2 if config.lora and config.bf16 else 4) + 3 * 12 * trained
    free = shutil.disk_usage(existing).free
    plan.facts.append(("disk", f"{need / 1e9:,.1f} GB for the model and its checkpoints, {free / 1e9:,.0f} GB are free"))
    if need > free:
        plan.problems.append(f"{output} needs {need / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free")
