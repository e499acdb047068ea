"""The contrastive phase: ranking with sparse vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.model.head import activate
from pyterrier_csplade.model.loading import prepare_backbone, save_contract
from pyterrier_csplade.queries.table import QueryTable
from pyterrier_csplade.training.monitoring.cockpit import Cockpit
from pyterrier_csplade.training.monitoring.grounding import batch_grounding
from pyterrier_csplade.training.monitoring.parity import Probe, write_report
from pyterrier_csplade.training.monitoring.validation import Validation, read_slice
from pyterrier_csplade.vectors.contract import Contract

from .batches import Collator, Labels, RowDataset, write_rows
from .checkpoints import CHECKPOINTS, reading, step_of
from .config import ContrastiveConfig
from .distributed import barrier, gather, is_first_process, on_one_process_first, rank, reads_weights_of
from .expansion import ExpansionControl, own_terms_only
from .gradient_cache import Part
from .learned_table import save_table, starting_table
from .lexical import LexicalLoss, count_own_tokens
from .objective import ContrastiveObjective, Figures
from .own_tokens import OwnTokenFinder, OwnTokens
from .readers import read_rows
from .run import (
    alone_in_its_output,
    attention_for_short_texts,
    check_model,
    load_tokenizer_and_model,
    open_output,
    save_run,
    training_arguments,
    whole_model,
)
from .scheduled_trainer import VectorTrainer
from .schedules import make_schedule
from .sources import texts_digest
from .trainer import WEIGHTS_FILE
from .training_encoder import TrainingEncoder, prediction_shares

# Queries of the batch for pre-flight and cockpit, and negatives of each; our choice (measured: takes a second or two for an 8B
# model).
_PROBE = 16
_PROBE_NEGATIVES = 3
# Number of rows whose passages provide the term statistics of the lexical loss; our choice (not measured).
_COUNTED = 4000


class ContrastiveTrainer(VectorTrainer):
    """Trainer of ``ContrastiveObjective``.

    Attributes:
        objective: Computes the loss.
        diagnostics: Functions of the batch's query and passage vectors that return figures to record at every step.
        lexical: The lexical loss of the passages, or None.
        expansion: Expansion control, or None.
    """

    config: ContrastiveConfig

    def __init__(self, config: ContrastiveConfig, lexical: LexicalLoss | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.objective = ContrastiveObjective(config)
        self.schedule = make_schedule(config)
        self.diagnostics: list[Callable[[Tensor, Tensor], dict[str, Tensor | float]]] = []
        self.parts["objective"] = self.objective
        self.lexical = lexical
        self.expansion = ExpansionControl(config.expansion, config.steps, config.seed) if config.expansion else None

    def batch_parts(self, inputs: dict[str, Any]) -> Sequence[Part]:
        """Return the parts of the queries and then of the passages, as arguments of forward passes."""
        passages = inputs["passages"]
        if self.config.adaptation_weight:
            shares = prediction_shares(passages, self.config.adaptation_weight, self.config.variant)
            passages = [{**part, "share": share} for part, share in zip(passages, shares)]
        parts = [*inputs["queries"], *passages]
        return parts if self.lexical is None else [{**part, "raw": True} for part in parts]

    def batch_loss(self, vectors: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Figures]:
        """Compute the loss over the batch of all processes."""
        count, step = sum(len(part["input_ids"]) for part in inputs["queries"]), self.state.global_step
        weights = vectors if self.lexical is None else activate(vectors)
        sides = {"query": weights[:count], "document": weights[count:]}
        own = {"query": OwnTokens(**inputs["own_queries"]), "document": OwnTokens(**inputs["own_passages"])}
        queries, passages = map(torch.cat, gather(list(sides.values())))
        scored = None
        if self.expansion is not None:
            parts = gather([self._restricted(sides[side], own[side], side) for side in sides])
            scored = torch.cat(parts[0]), torch.cat(parts[1])
        labels = Labels(**inputs["labels"]).gathered()
        lambdas = self.schedule.weights(step)
        if self.config.learns_table:
            lambdas = (0.0, lambdas[1])
        loss, figures = self.objective(queries, passages, labels, lambdas, step=step, scored=scored)
        if self.expansion is not None:
            figures["restricted"] = self.expansion.probability(step)
        if self.lexical is not None:
            lexical, found = self.lexical(vectors[count:], own["document"], len(passages))
            loss = loss + self.lexical.settings.weight * lexical
            figures |= found
        for diagnose in self.diagnostics:
            figures |= diagnose(queries.detach(), passages.detach())
        if (step + 1) % self.config.logging_steps == 0:
            for side in sides:
                figures |= batch_grounding(sides[side], own[side], side)
        return loss, figures

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the optimizer, with a group of its own for the table of queries."""
        optimizer = super().create_optimizer(*args, **kwargs)
        table = getattr(self.model, "table", None)
        if table is not None:
            own = list(table.parameters())
            for group in optimizer.param_groups:
                group["params"] = [values for values in group["params"] if all(values is not other for other in own)]
            rate = self.config.query.rate * self.config.learning_rate
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def _restricted(self, weights: Tensor, own: OwnTokens, side: str) -> Tensor:
        assert self.expansion is not None
        drawn = self.expansion.draw(len(weights), self.state.global_step, side, rank())
        return own_terms_only(weights, own.mask(*weights.shape), drawn)


@alone_in_its_output
def train(config: ContrastiveConfig, *, resume: bool = False) -> Path:
    """Run the contrastive phase.

    Args:
        config: The run's settings.
        resume: Resume from the last checkpoint in ``config.output``, if there is one.

    Returns:
        The directory of the trained model, ``config.output``, which ``CSPLADE`` loads.

    Raises:
        ConfigError: ``config.output`` contains checkpoints of another run, or another process is training into it.
        DataError: A training row cannot be used, or there are no rows.
        TrainingError: The loss is not finite, or the run has collapsed.
    """
    output = open_output(config, resume)
    arguments = training_arguments(config, pieces=1)
    check_model(config)
    rows = output / "rows.jsonl"
    found = read_rows(config.data, max_bad_rows=config.max_bad_rows)
    on_one_process_first(lambda: write_rows(found, rows, scored=config.needs_teacher))
    dataset = RowDataset(rows, negatives=config.negatives, seed=config.seed)
    tokenizer, model = load_tokenizer_and_model(config, attention_for_short_texts())
    contract = _contract(config)
    lengths = {"query_length": config.query_length, "document_length": config.document_length}
    prediction = config.prediction if config.adaptation_weight else None
    encoder = TrainingEncoder(model, tokenizer, contract.replace(**lengths), prediction)
    table = encoder.table = starting_table(config.query.start, encoder) if config.learns_table else None
    backbone: Backbone = encoder
    reads_weights_of(backbone, backbone.head)
    trainer = ContrastiveTrainer(
        config,
        _lexical_loss(config, backbone, dataset),
        model=backbone,
        args=arguments,
        train_dataset=dataset,
        data_collator=Collator(backbone, config.gradient_accumulation_steps),
    )
    if table is not None and trainer.sharded:
        raise ConfigError("query: encoder: table needs the whole model in every process: launch without FSDP and DeepSpeed")
    if config.query.start is not None:
        trainer.sources["the query table"] = texts_digest([QueryTable.load(config.query.start).contract.fingerprint])
    _watch(trainer, backbone, contract)
    trainer.run(resume)
    weights = best_weights(trainer, output / CHECKPOINTS) or trainer.trained_weights()
    if is_first_process():
        if trainer.sharded:
            backbone = Backbone(whole_model(config, weights, quantized=True), tokenizer, backbone.contract)
        else:
            backbone.load_state_dict(weights, strict=False)
        _save_trained(backbone, weights, config, contract, Probe(dataset, table))
        if table is not None:
            save_table(table, tokenizer, backbone.column_of_token, output)
    barrier()
    return output


def _lexical_loss(config: ContrastiveConfig, backbone: Backbone, dataset: RowDataset) -> LexicalLoss | None:
    """Return the lexical loss of a run, with term statistics of passages from the whole data."""
    if config.lexical is None:
        return None
    rows = (dataset[place] for place in range(0, len(dataset), max(1, len(dataset) // _COUNTED)))
    blocks = (backbone.tokenize([row["positive"], *row["negatives"]], "document")[0] for row in rows)
    return LexicalLoss(count_own_tokens(blocks, OwnTokenFinder(backbone)), config.lexical)


def _contract(config: ContrastiveConfig) -> Contract:
    """Return the contract of the trained model. Its lengths can differ from the lengths in training."""
    return Contract(
        variant=config.variant,
        query_prefix=config.query_prefix,
        document_prefix=config.document_prefix,
        add_bos=config.add_bos,
        add_eos=config.add_eos,
        pool_special=config.pool_special,
        query_length=config.encoding_query_length or config.query_length,
        document_length=config.encoding_document_length or config.document_length,
        logit_scale=config.logit_scale,
        temperature=config.last_temperature,
        base_model=_name(config.model),
        base_revision=config.revision,
        query_side="table" if config.learns_table else None,
    )


def _watch(trainer: ContrastiveTrainer, backbone: Backbone, contract: Contract) -> None:
    """Attach the cockpit and, if configured, validation."""
    config = trainer.config
    cockpit = Cockpit(trainer, backbone, _probe(trainer), config)
    trainer.diagnostics.append(cockpit.diagnose)
    trainer.parts["cockpit"] = cockpit
    trainer.add_callback(cockpit)
    if config.validation is not None:
        data = read_slice(config.validation)
        texts = (*data.docnos, *data.texts, data.topics.to_json(), data.qrels.to_json())
        trainer.sources["the validation data"] = texts_digest(texts)
        trainer.add_callback(Validation(trainer, backbone, contract, data, config.validation))


def _probe(trainer: Any) -> dict[str, Any]:
    """Return a batch of rows from the whole data, with few negatives."""
    dataset = trainer.train_dataset
    rows = [dataset[place] for place in range(0, len(dataset), max(1, len(dataset) // _PROBE))[:_PROBE]]
    for row in rows:
        row["negatives"] = row["negatives"][:_PROBE_NEGATIVES]
    batch: dict[str, Any] = trainer.data_collator(rows)
    return batch


def best_weights(trainer: Any, checkpoints: Path) -> dict[str, Tensor] | None:
    """Return the trained parameters of the best validated checkpoint; None if the run was not validated."""
    best = trainer.state.best_global_step
    if best is None:  # the run had already ended, and its state was not loaded
        newest = max(checkpoints.glob("checkpoint-*/trainer_state.json"), key=lambda path: step_of(path.parent), default=None)
        best = None if newest is None else json.loads(newest.read_text(encoding="utf-8"))["best_global_step"]
    file = checkpoints / f"checkpoint-{best}" / WEIGHTS_FILE
    with reading(file.parent):
        return load_file(file) if best is not None and file.is_file() else None


def _save_trained(
    backbone: Backbone, weights: dict[str, Tensor], config: ContrastiveConfig, contract: Contract, probe: Probe
) -> None:
    """Save the trained model with its adapter merged, its contract, and a report on the effect of merging."""
    output = Path(config.output)
    before = probe.encode(backbone) if config.lora else None
    unmerged = whole_model(config, weights) if config.quantization else backbone.model
    merged = save_run(unmerged, backbone.tokenizer, config).eval()
    contract = contract.replace(training={"phase": "contrastive", "rows": probe.rows, **_published(config)})
    save_contract(prepare_backbone(merged, backbone.tokenizer, contract, name=config.output), output)
    if before:
        same_lengths = prepare_backbone(merged, backbone.tokenizer, backbone.contract, name=config.output)
        write_report(probe.report(before, probe.encode(same_lengths)), output)


def _published(config: ContrastiveConfig) -> dict[str, Any]:
    """Return the settings for a contract, without the paths of this machine."""
    data = [config.data] if isinstance(config.data, str) else config.data
    settings = asdict(config) | {"model": _name(config.model), "data": [_name(source) for source in data]}
    if config.validation is not None:
        settings["validation"]["collection"] = _name(config.validation.collection)
    if config.query.start is not None:
        settings["query"]["start"] = _name(config.query.start)
    del settings["output"]
    return settings


def _name(source: str) -> str:
    return Path(source).name if Path(source).exists() else source
