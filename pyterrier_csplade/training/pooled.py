"""The second adaptation: losses on the pooled vectors of unlabelled passages, such as the lexical warm start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt
import torch
from torch import Tensor

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.data.sources import read_corpus
from pyterrier_csplade.model.head import activate
from pyterrier_csplade.training.monitoring.grounding import batch_grounding
from pyterrier_csplade.vectors.contract import Contract

from .batches import cut_parts, part_limits
from .checkpoints import prepared
from .config import AdaptationConfig, PassageSettings
from .distributed import gather, on_one_process_first, reads_weights_of
from .gradient_cache import Part
from .lexical import LexicalLoss, TermStatistics, count_own_tokens
from .losses import flops
from .objective import Figures, sparsity
from .own_tokens import OwnTokenFinder, OwnTokens, prefix_ids
from .packing import PassageDataset, cut_passages
from .run import (
    attention_for_short_texts,
    check_model,
    load_tokenizer_and_model,
    open_output,
    save_adapted,
    training_arguments,
)
from .scheduled_trainer import VectorTrainer
from .schedules import WeightSchedule
from .training_encoder import TrainingEncoder, prediction_shares

# File in a run's directory.
_STATISTICS = "term_statistics.json"
# Initial lambda of a target without lambda_document: the paper's value for 1B (table 3).
_FIRST_LAMBDA = 0.003
# Number of passages whose terms are counted at once; our choice (not measured).
_BLOCK = 4096


class PooledTrainer(VectorTrainer):
    """Trainer of the losses on pooled vectors."""

    config: AdaptationConfig

    def __init__(self, config: AdaptationConfig, lexical: LexicalLoss | None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.lexical = lexical
        weight = config.lambda_document or (_FIRST_LAMBDA if config.target_nnz else 0.0)
        self.schedule = WeightSchedule(
            {"query": 0.0, "document": weight},
            {"query": None, "document": config.target_nnz},
            ramp=config.flops_ramp,
            steps=config.steps,
        )

    def batch_parts(self, inputs: dict[str, Any]) -> Sequence[Part]:
        """Return the parts of the passages with their shares of the adaptation loss."""
        parts = inputs["passages"]
        shares = prediction_shares(parts, self.config.prediction_weight, self.config.passages.variant)
        return [{**part, "raw": True, "share": share} for part, share in zip(parts, shares)]

    def batch_loss(self, logits: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Figures]:
        """Compute the lexical loss and the FLOPS regulariser over the batch of all processes."""
        all_logits = torch.cat(gather([logits])[0])
        own, weights = OwnTokens(**inputs["own"]), activate(all_logits)
        _, weight = self.schedule.weights(self.state.global_step)
        figures: Figures = {"lambda_document": weight, **sparsity(weights, "document")}
        loss = weight * flops(weights)
        if self.lexical is not None:
            lexical, lexical_figures = self.lexical(logits, own, len(all_logits))
            loss = loss + self.lexical.settings.weight * lexical
            figures |= lexical_figures
        if (self.state.global_step + 1) % self.config.logging_steps == 0:
            figures |= batch_grounding(activate(logits), own, "document")
        return loss, figures


class PassageCollator:
    """Makes a batch of passages with their own tokens, divided into parts."""

    def __init__(self, encoder: TrainingEncoder, pieces: int) -> None:
        """Set the model and the minimum number of parts."""
        contract, tokenizer = encoder.contract, encoder.tokenizer
        self.encoder, self.pieces, self.find = encoder, pieces, OwnTokenFinder(encoder)
        self.before = prefix_ids(tokenizer, contract.document_prefix, add_bos=contract.add_bos)
        self.after = [tokenizer.eos_token_id] if contract.add_eos else []

    def __call__(self, passages: Sequence[list[int]]) -> dict[str, Any]:
        """Add prefix and special tokens, sort by length, and pad.

        Returns:
            ``passages``, a list of parts; and ``own``, the fields of ``OwnTokens``, in the order of the parts.
        """
        sequences = sorted(([*self.before, *ids, *self.after] for ids in passages), key=len, reverse=True)
        limits = part_limits(self.encoder, len(sequences), self.pieces)
        own = self.find(sequences, "document")
        return {
            "passages": cut_parts(self.encoder, sequences, list(map(len, sequences)), *limits),
            "own": {name: values.to(self.encoder.device) for name, values in vars(own).items()},
        }


def count_terms(dataset: PassageDataset, find: OwnTokenFinder) -> TermStatistics:
    """Count the passages that contain each index term."""
    count = -(-len(dataset) // _BLOCK)
    return count_own_tokens(pt.tqdm(dataset.blocks(_BLOCK), desc="counting terms", total=count, leave=False), find)


def read_statistics(path: Path) -> TermStatistics:
    """Read the term statistics of a run."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return TermStatistics(np.array(values["frequencies"], dtype=np.int64), values["texts"], values["tokens"])


def _write_statistics(path: Path, dataset: PassageDataset, find: OwnTokenFinder) -> None:
    found = count_terms(dataset, find)
    values = {"texts": found.texts, "tokens": found.tokens, "frequencies": found.frequencies.tolist()}
    with prepared(path) as out:
        out.write(json.dumps(values).encode())


def passage_contract(settings: PassageSettings, tokenizer: Any) -> Contract:
    """Return the contract of the encoder of passages."""
    around = prefix_ids(tokenizer, settings.document_prefix, add_bos=settings.add_bos)
    return Contract(
        variant=settings.variant,
        document_prefix=settings.document_prefix,
        add_bos=settings.add_bos,
        add_eos=settings.add_eos,
        pool_special=settings.pool_special,
        document_length=settings.longest + len(around) + settings.add_eos,
        logit_scale=settings.logit_scale,
    )


def adapt_pooled(config: AdaptationConfig, *, resume: bool) -> Path:
    """Run the adaptation phase with the objective "pooled"; see ``adapt``."""
    output = open_output(config, resume)
    arguments, settings = training_arguments(config, pieces=1), config.passages
    check_model(config)
    if next(read_corpus(config.corpus, config.text_fields), None) is None:  # before a large model is loaded
        raise DataError(f"{config.corpus}: the corpus is empty")
    tokenizer, model = load_tokenizer_and_model(config, attention_for_short_texts())
    encoder = TrainingEncoder(model, tokenizer, passage_contract(settings, tokenizer), config.prediction)
    reads_weights_of(encoder, encoder.head)
    lengths = {"shortest": settings.shortest, "longest": settings.longest}
    texts = read_corpus(config.corpus, config.text_fields)
    on_one_process_first(lambda: cut_passages(texts, tokenizer, output, seed=config.seed, **lengths))
    dataset = PassageDataset(output)
    lexical = None
    if config.lexical is not None:
        on_one_process_first(lambda: _write_statistics(output / _STATISTICS, dataset, OwnTokenFinder(encoder)))
        lexical = LexicalLoss(read_statistics(output / _STATISTICS), config.lexical)
    collator = PassageCollator(encoder, config.gradient_accumulation_steps)
    trainer = PooledTrainer(config, lexical, model=encoder, args=arguments, train_dataset=dataset, data_collator=collator)
    trainer.run(resume)
    save_adapted(trainer, encoder.model, tokenizer, config)
    return output
