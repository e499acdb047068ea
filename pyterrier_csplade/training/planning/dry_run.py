"""The dry run, which checks a whole configuration in seconds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import ConfigError, CspladeError
from pyterrier_csplade.data.sources import find_dataset
from pyterrier_csplade.model.hub import load_tokenizer
from pyterrier_csplade.model.terms import index_terms
from pyterrier_csplade.queries.table import QueryTable
from pyterrier_csplade.training.batches import part_size, part_tokens
from pyterrier_csplade.training.checkpoints import CHECKPOINTS, last_checkpoint
from pyterrier_csplade.training.config import (
    AdaptationConfig,
    ContrastiveConfig,
    QuerySettings,
    TrainingConfig,
    ValidationSettings,
    check_batch,
)
from pyterrier_csplade.training.monitoring.validation import read_queries
from pyterrier_csplade.training.pooled import passage_contract
from pyterrier_csplade.training.run import reporters, tokenizer_problems

from .cost import Load, Method, find_gpu, trained_parameters
from .plan import Plan
from .sample import RowSample, mean_length, sample_corpus, sample_rows
from .shape import ModelShape, model_shape, read_model_config


def dry_run(config: TrainingConfig, *, gpu: str = "h100", gpus: int = 1, fsdp: bool = False, like: str | None = None) -> Plan:
    """Check a configuration and its data, and estimate the cost of the run, without weights and without an accelerator.

    Only the first rows of data files are read. ``irds:`` datasets are not read, because reading may download them.

    Args:
        config: An ``AdaptationConfig`` or a ``ContrastiveConfig``.
        gpu: Name of the accelerator for the estimate.
        gpus: Number of processes that share a batch.
        fsdp: Whether the processes also share weights, gradients and optimizer states.
        like: Hub id or directory of a model of the same shape, if the configuration's model does not exist yet.

    Returns:
        The plan; ``problems`` is empty if the run can start.

    Raises:
        ConfigError: The accelerator is unknown, or the batch cannot be divided among the processes.
    """
    plan = Plan(gpu=find_gpu(gpu), gpus=gpus)
    if gpus < 1:
        raise ConfigError(f"gpus must be positive, found {gpus}")
    packed = isinstance(config, AdaptationConfig) and not config.pooled
    check_batch(config, gpus, config.gradient_accumulation_steps if packed else 1)
    method = Method(
        rank=config.lora.rank if config.lora else None,
        bf16=config.bf16,
        checkpointing=config.gradient_checkpointing,
        four_bit=config.quantization == "nf4",
        shards=gpus if fsdp else 1,
        dropout=config.lora is not None and config.lora.dropout > 0,
        frozen_embeddings=config.freeze_embeddings,
        lora_embeddings=config.lora is not None and config.lora.embeddings,
    )
    shape, tokenizer = _check_model(config, like, plan)
    if shape:
        all_but = "all parameters but embeddings and head" if method.frozen_embeddings else "all parameters"
        how = f"LoRA of rank {method.rank}" if method.rank else all_but
        how += ", embeddings and head" if method.lora_embeddings else ""
        base = ", nf4 base" if method.four_bit else ""
        plan.facts.append(("trained", f"{trained_parameters(shape, method) / 1e6:,.1f} million parameters ({how}{base})"))
    load = _check_data(config, tokenizer, plan, sharded=fsdp)
    _check_output(Path(config.output), shape, method, plan)
    try:
        reporters(config.report_to)
    except ConfigError as error:
        plan.problems.append(str(error))
    if shape and load:
        plan.add_cost(shape, method, load, config.steps)
    return plan


def _check_model(config: TrainingConfig, like: str | None, plan: Plan) -> tuple[ModelShape | None, Any]:
    """Return the shape and the tokenizer of the run's model, or of the model ``like``; None if unknown."""
    shape, tokenizer, name = None, None, config.model
    try:
        read_model_config(config.model, config.revision, config.layers)
    except ConfigError as error:
        if like is None:
            plan.problems.append(f"{error}. For an estimate, name another model of the same shape with --like")
            return None, None
        plan.warnings.append(str(error))
        name = like
    try:
        revision = config.revision if name == config.model else None
        found, published = read_model_config(name, revision, config.layers)
        shape = model_shape(found, config.lora.target_modules if config.lora else ())
        note = " (published shape: the hub was not reached)" if published else ""
        plan.facts.append(("model", f"{name}{note}: {shape.parameters / 1e9:,.3g} billion parameters, {shape.layers} layers"))
        tokenizer = None if published else load_tokenizer(name, revision)
    except (CspladeError, OSError, ValueError) as error:
        plan.problems.append(" ".join(str(error).split())[:300])
    if tokenizer is not None and shape is not None:
        _check_tokenizer(config, tokenizer, shape, plan)
    return shape, tokenizer


def _check_tokenizer(config: TrainingConfig, tokenizer: Any, shape: ModelShape, plan: Plan) -> None:
    plan.problems += tokenizer_problems(config, tokenizer, shape.vocabulary)
    _, terms = index_terms(tokenizer, shape.vocabulary)
    plan.facts.append(("vocabulary", f"{len(terms):,} index terms of {shape.vocabulary:,} rows of the head"))
    longest = 0
    if isinstance(config, ContrastiveConfig):
        longest = max(config.query_length, config.document_length) * (2 if config.variant == "echo" else 1)
    elif isinstance(config, AdaptationConfig):
        longest = config.sequence_length
        if config.pooled:
            contract = passage_contract(config.passages, tokenizer)
            longest = contract.document_length * (2 if contract.variant == "echo" else 1)
    if shape.positions and longest > shape.positions:
        plan.warnings.append(f"sequences of up to {longest:,} tokens, but the model has {shape.positions:,} positions")


def _check_data(config: TrainingConfig, tokenizer: Any, plan: Plan, *, sharded: bool) -> Load | None:
    if isinstance(config, ContrastiveConfig):
        if config.validation:
            _check_validation(config.validation, plan)
        if config.learns_table:
            _check_query_table(config.query, plan)
        return _contrastive_load(config, sample_rows(config, tokenizer, plan), plan.gpus, sharded=sharded)
    if isinstance(config, AdaptationConfig):
        corpus_tokens = sample_corpus(config, tokenizer, plan)
        if corpus_tokens:
            passes = config.steps * config.batch_size * mean_length(config) / corpus_tokens
            plan.facts.append(("passes", f"{passes:,.2f} over the corpus"))
        return _pooled_load(config, plan.gpus, sharded=sharded) if config.pooled else _adaptation_load(config, plan.gpus)
    return None


def _check_validation(settings: ValidationSettings, plan: Plan) -> None:
    """Check the collection and, for a directory, the queries. The documents are read when the run starts."""
    try:
        if Path(settings.collection).is_dir():
            topics, _ = read_queries(settings)
            plan.facts.append(("validation", f"{len(topics):,} queries every {settings.steps:,} steps"))
        else:
            find_dataset(settings.collection)
    except (CspladeError, OSError) as error:
        plan.problems.append(f"validation: {error}")


def _check_query_table(settings: QuerySettings, plan: Plan) -> None:
    begins = "all weights 1"
    if settings.start is not None:
        try:
            table = QueryTable.load(settings.start)
            begins = f"{settings.start} with {table.expansion.nnz:,} weights of expansion"
        except (CspladeError, OSError) as error:
            plan.problems.append(f"query: start: {error}")
    plan.facts.append(("query encoder", f"a table, no forward pass; it begins with {begins}"))


def _contrastive_load(config: ContrastiveConfig, sample: RowSample, gpus: int, *, sharded: bool) -> Load:
    queries = config.batch_size / gpus
    copies = 2 if config.variant == "echo" else 1
    passages = queries * (1 + sample.negatives)
    again = passages * sample.document_tokens if config.adaptation_weight else 0.0  # tokens to predict
    of_queries = 0.0 if config.learns_table else queries * sample.query_tokens
    read = of_queries + passages * sample.document_tokens
    tokens = read + (again if config.masks else 0.0)
    cached = sharded or config.gradient_accumulation_steps > 1  # sharded models never keep graphs
    part = part_size(passages, config.gradient_accumulation_steps, accelerator=True)
    together = copies * min(part * sample.longest, part_tokens(config.document_length))
    live = copies * sample.padding * tokens
    return Load(
        tokens=copies * tokens,
        live_tokens=together if cached else live,
        head_tokens=read + again,
        texts=queries + passages,
        length=copies * sample.document_tokens,
        every_logit=config.adaptation_weight > 0,
        forwards=int(cached),
        part_tokens=together if cached else min(together, live),
        live_texts=part if cached else queries + passages,
        accumulates=cached or gpus > 1,
    )


def _adaptation_load(config: AdaptationConfig, gpus: int) -> Load:
    tokens = config.batch_size * config.sequence_length / gpus
    predicted = 1.0 if config.objective == "clm" else config.mask_rate + config.visible_rate
    return Load(
        tokens=tokens,
        live_tokens=tokens / config.gradient_accumulation_steps,
        head_tokens=tokens * predicted,
        texts=0,
        length=config.sequence_length / (2 if config.objective == "clm" else 1),
        every_logit=True,
        accumulates=config.gradient_accumulation_steps > 1 or gpus > 1,
    )


def _pooled_load(config: AdaptationConfig, gpus: int, *, sharded: bool) -> Load:
    """Estimate the load of passages. A bidirectional variant reads them again for the adaptation loss."""
    settings, texts, length = config.passages, config.batch_size / gpus, mean_length(config)
    copies = 2 if settings.variant == "echo" else 1
    passes = 2 if config.masks else 1
    cached = sharded or config.gradient_accumulation_steps > 1
    part = part_size(texts, config.gradient_accumulation_steps, accelerator=True)
    live = copies * passes * texts * settings.longest
    together = copies * passes * min(part * settings.longest, part_tokens(settings.longest))
    return Load(
        tokens=copies * passes * texts * length,
        live_tokens=together if cached else live,
        head_tokens=(1 + (config.prediction_weight > 0)) * texts * length,
        texts=texts,
        length=copies * length,
        every_logit=config.prediction_weight > 0,
        forwards=int(cached),
        part_tokens=min(together, live),
        live_texts=part if cached else texts,
        accumulates=cached or gpus > 1,
    )


def _check_output(output: Path, shape: ModelShape | None, method: Method, plan: Plan) -> None:
    if (checkpoint := last_checkpoint(output / CHECKPOINTS)) is not None:
        plan.warnings.append(f"{output} contains {checkpoint.name}: resume with --resume, or name another output")
    existing = next((path for path in (output, *output.absolute().parents) if path.exists()), Path("/"))
    if not existing.is_dir():
        plan.problems.append(f"output: {existing} is a file, so {output} cannot be a directory: name another one")
        return
    if not os.access(existing, os.W_OK):
        plan.problems.append(f"{existing} cannot be written")
    if shape is None:
        return
    # The model, two checkpoints of float32 weights with two moments, and a third one while it is written.
    need = shape.parameters * (2 if method.rank and method.bf16 else 4) + 3 * 12 * trained_parameters(shape, method)
    free = shutil.disk_usage(existing).free
    plan.facts.append(("disk", f"{need / 1e9:,.1f} GB for the model and its checkpoints, {free / 1e9:,.0f} GB are free"))
    if need > free:
        plan.problems.append(f"{output} needs {need / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free: name another output")
