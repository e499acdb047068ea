"""Distillation of a query encoder with fewer layers, to the sparse vectors of the whole model."""

from __future__ import annotations

# Annotations are evaluated in this module, as in config.py.
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pyterrier as pt
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from pyterrier_csplade._errors import DataError, TrainingError
from pyterrier_csplade.model.csplade import CSPLADE
from pyterrier_csplade.model.head import activate
from pyterrier_csplade.queries.table import check_teacher
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.contract import CONTRACT_FILE, LAYERS, are_layers
from pyterrier_csplade.vectors.impacts import Quantizer

from .config import ValidationSettings, parse_measure
from .fields import BE_POSITIVE, NOT_BE_NEGATIVE, must
from .losses import flops
from .monitoring.validation import Slice, read_slice
from .query_source import QuerySource
from .training_encoder import TrainingEncoder

# Share of the steps in which the weight of the regulariser grows, as in smol-splade.
_RAMP = 0.1
# Share of the queries that are kept from training, at least one; our choice (not measured).
_HELD_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class DistilQueryConfig(QuerySource):
    """Settings of ``pyterrier-csplade distil-query``.

    The kept layers and the final norm are trained; embeddings and head do not change. The loss is the squared error of the
    vectors plus ``lambda_query`` times FLOPS. Defaults are from smol-splade's shallow query encoders, except for the steps.

    Attributes:
        layers: Number of first layers of the model to keep, or ascending indices of layers.
        steps: Optimizer steps.
        batch_size: Number of queries per optimizer step.
        learning_rate: Learning rate of AdamW, which falls linearly to 0.
        weight_decay: Decoupled weight decay.
        lambda_query: Weight of the FLOPS regulariser, after the first tenth of the steps.
        validate_steps: Optimizer steps between two validations. The encoder with the best validation is saved.
        validation: Validation by retrieval on documents that the whole model encodes; the first measure determines the best
            encoder. None validates with a twentieth of the queries, which are held out from training, by the mean cosine with
            the whole model's vectors.
    """

    layers: int | list[int] = field(metadata=must(f"be {LAYERS}", are_layers))
    steps: int = field(default=10_000, metadata=BE_POSITIVE)
    batch_size: int = field(default=32, metadata=BE_POSITIVE)
    learning_rate: float = field(default=2e-4, metadata=BE_POSITIVE)
    weight_decay: float = field(default=0.01, metadata=NOT_BE_NEGATIVE)
    lambda_query: float = field(default=1e-3, metadata=NOT_BE_NEGATIVE)
    validate_steps: int = field(default=500, metadata=BE_POSITIVE)
    validation: ValidationSettings | None = None

    @property
    def made(self) -> tuple[str, str]:
        """What the output is, and its file."""
        return "a model", CONTRACT_FILE


def distil_query(config: DistilQueryConfig, *, verbose: bool = True) -> Path:
    """Train a query encoder of some layers of a model, and save the best one.

    Args:
        config: The settings.
        verbose: Whether to show progress.

    Returns:
        ``config.output``.

    Raises:
        ConfigError: The output cannot be used.
        ContractError: The model does not have the layers.
        DataError: There are no queries, or the model gives most of them no terms.
        TrainingError: The loss is not finite, or the encoder gives no query any terms.
    """
    config.check_output()
    queries, teacher = config.read(), config.load_model(dtype="float32")
    if len(queries) < 2:
        raise DataError("distillation needs at least 2 queries: one to train on, and one to evaluate the encoder")
    vectors = teacher.encode_queries(queries, verbose=verbose)
    check_teacher(vectors)
    student = teacher.shallow(config.layers)
    judge = _Judge(teacher, config.validation, verbose=verbose)
    _Distillation(config, student, queries, vectors, judge).run(verbose=verbose)
    output = Path(config.output).absolute()
    with workspace(output) as directory:
        student.save(directory / output.name)
        publish(directory / output.name, output)
    return Path(config.output)


class _Judge:
    """Measures a query encoder: by retrieval from the whole model's documents, or by the cosine with its vectors."""

    def __init__(self, teacher: CSPLADE, settings: ValidationSettings | None, *, verbose: bool) -> None:
        self._data: Slice | None = None
        if settings is not None:
            self._data = read_slice(settings)
            self._measure = parse_measure(settings.measures[0])
            documents = teacher.encode_docs(self._data.texts, quantizer=Quantizer(), verbose=verbose)
            self._documents = documents.T.tocsr().astype(np.float32)
            self._qrels = self._data.qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
        self.name = "cosine" if settings is None else settings.measures[0]

    def __call__(self, student: CSPLADE, queries: Sequence[str], vectors: csr_matrix) -> float:
        """Return the figure, larger for better encoders; the queries are those kept from training."""
        if self._data is None:
            made = student.encode_queries(queries)
            norms = [np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()) for matrix in (made, vectors)]
            products = np.asarray(made.multiply(vectors).sum(axis=1)).ravel()
            return float((products / np.maximum(norms[0] * norms[1], 1e-12)).mean())
        qids = self._data.topics["qid"].tolist()
        scores = (student.encode_queries(self._data.topics["query"].tolist()) @ self._documents).tocsr()
        run = {
            qid: {self._data.docnos[place]: float(score) for place, score in zip(row.indices, row.data)}
            for qid, row in zip(qids, scores)
        }
        return float(ir_measures.calc_aggregate([self._measure], self._qrels, run)[self._measure])


class _Distillation:
    """Trains the layers of a student."""

    def __init__(
        self, config: DistilQueryConfig, student: CSPLADE, queries: Sequence[str], vectors: csr_matrix, judge: _Judge
    ) -> None:
        self._config, self._student, self._judge = config, student, judge
        order = np.random.default_rng(config.seed).permutation(len(queries))
        held = max(1, int(_HELD_OUT * len(queries)))
        self._held, self._trained = np.sort(order[:held]), np.sort(order[held:])
        self._queries, self._vectors = queries, vectors
        backbone = student.backbone
        self._encoder = TrainingEncoder(backbone.model, backbone.tokenizer, backbone.contract).to(backbone.device)
        self._sequences = backbone.tokenize(list(queries), "query")[0]
        self._parameters = self._trainable()

    def _trainable(self) -> list[Any]:
        """Copy the weights that are trained, which the teacher shares, and freeze all others."""
        lm: Any = self._encoder.model
        frozen = {id(module.weight) for module in (lm.get_input_embeddings(), lm.get_output_embeddings())}
        trained = []
        for parameter in lm.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
            if parameter.requires_grad:
                parameter.data = parameter.data.clone()
                trained.append(parameter)
        return trained

    def run(self, *, verbose: bool) -> None:
        """Train, and leave the student with the weights of the best validation."""
        config = self._config
        optimizer = torch.optim.AdamW(self._parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        generator = np.random.default_rng(config.seed + 1)
        best = self._measured()
        kept = [parameter.detach().clone() for parameter in self._parameters]
        with pt.tqdm(total=config.steps, desc="Distilling the query encoder", unit="step", disable=not verbose) as bar:
            for step in range(1, config.steps + 1):
                drawn = generator.choice(self._trained, min(config.batch_size, len(self._trained)), replace=False)
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * (1 - (step - 1) / config.steps)
                self._step(optimizer, drawn, step)
                bar.update(1)
                if step % config.validate_steps == 0 or step == config.steps:
                    found = self._measured()
                    bar.set_postfix({self._judge.name: round(found, 4)})
                    if found > best:
                        best, kept = found, [parameter.detach().clone() for parameter in self._parameters]
        for parameter, values in zip(self._parameters, kept):
            parameter.data = values
        backbone = self._student.backbone
        training = {**backbone.contract.training, "phase": "distil-query", self._judge.name: round(best, 4)}
        backbone.contract = backbone.contract.replace(training=training)

    def _step(self, optimizer: Any, drawn: np.ndarray, step: int) -> None:
        config, device = self._config, self._encoder.device
        self._encoder.train()
        part = self._encoder.collate([self._sequences[place] for place in drawn])
        logits = self._encoder(**part, raw=True)
        target = torch.from_numpy(self._vectors[drawn].toarray()).to(device)
        weight = config.lambda_query * min(1.0, step / max(1.0, _RAMP * config.steps))
        loss = vector_loss(logits, target) + weight * flops(activate(logits))
        if not torch.isfinite(loss):
            raise TrainingError(f"step {step}: the loss is {float(loss)}: lower learning_rate")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _measured(self) -> float:
        self._encoder.eval()
        with torch.no_grad():
            return self._judge(self._student, [self._queries[place] for place in self._held], self._vectors[self._held])


def vector_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the mean over texts of the squared error of their vectors.

    Where a weight should be above 0 and its logit is not, the gradient passes the ReLU as if it were the identity: otherwise a
    term that is lost once would never come back.

    Args:
        logits: Pooled logits, [texts, terms].
        target: Weights, [texts, terms].
    """
    weights = activate(logits)
    lost = (logits <= 0) & (target > 0)
    weights = weights + torch.where(lost, logits - logits.detach(), torch.zeros_like(logits))
    return (weights - target).square().sum(dim=1).mean()
