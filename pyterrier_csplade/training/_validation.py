"""Validation in the course of training: retrieval over a slice of a collection, the best checkpoint, early stopping."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import torch
from scipy.sparse import csr_matrix, vstack
from transformers import Trainer, TrainerCallback

from pyterrier_csplade._backbone import Backbone, Role
from pyterrier_csplade._contract import Contract
from pyterrier_csplade._impacts import Quantizer

from ._index_size import index_bytes
from ._monitoring_config import ValidationSettings, parse_measure
from ._slice import Slice

# Texts that go through the model together, and results of a query that measures may look at. Ours.
_BATCH = 32
_RESULTS = 1000


class Validation(TrainerCallback):
    """Retrieves every some steps; marks the best checkpoint, and ends a run that gets no better.

    The figures stand in the training log as ``eval_`` and the name of a measure, ``eval_nnz_query``, ``eval_nnz_document``,
    ``eval_index_mb``. What is known of earlier validations is read from that log, so that a resumed run goes on with it.
    """

    def __init__(self, trainer: Any, backbone: Backbone, contract: Contract, data: Slice, settings: ValidationSettings) -> None:
        """Watch a run.

        Args:
            trainer: Its trainer.
            backbone: Its model.
            contract: With the lengths of encoding.
            data: What to search.
            settings: When, and what to measure.
        """
        self.trainer, self.backbone, self.contract = trainer, backbone, contract
        self.data, self.settings = data, settings
        self.measure = f"eval_{settings.measures[0]}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate if it is time to, or at the end of the run."""
        if state.global_step % self.settings.steps and state.global_step < args.max_steps:
            return
        # Without the trainer's own log, which would take the figures of the steps since the last point.
        Trainer.log(self.trainer, {f"eval_{name}": value for name, value in self.figures().items()})
        history = [point for point in state.log_history if self.measure in point]
        best = max(history, key=lambda point: (point[self.measure], -point["step"]))
        if best is history[-1]:
            state.best_metric, state.best_global_step = best[self.measure], state.global_step
            control.should_save = True
        later = sum(point["step"] > best["step"] for point in history)
        if self.settings.patience and later >= self.settings.patience:
            control.should_save = control.should_training_stop = True

    def figures(self) -> dict[str, float]:
        """Encode the slice, search it, and measure."""
        queries = self.encode(self.data.topics["query"].tolist(), "query")
        impacts = Quantizer(self.contract.impact_scale)(self.encode(self.data.texts, "document"))
        if self.settings.terrier:
            results, size = self._terrier(queries, impacts)
        else:
            results, size = self._exact(queries, impacts), index_bytes(impacts)
        measures = [parse_measure(name) for name in self.settings.measures]
        measured = pt.Experiment([results], self.data.topics, self.data.qrels, measures, names=["model"])
        return {
            **{n: float(measured[str(m)].iloc[0]) for n, m in zip(self.settings.measures, measures)},
            "nnz_query": queries.nnz / max(1, queries.shape[0]),
            "nnz_document": impacts.nnz / max(1, impacts.shape[0]),
            "index_mb": size / 1e6,
        }

    def encode(self, texts: list[str], role: Role) -> csr_matrix:
        """Encode texts in every process alike, as a model in pieces needs it; rows in the order of the texts."""
        backbone, model = self.backbone, self.trainer.model_wrapped
        before, training = backbone.contract, model.training
        backbone.contract = self.contract
        model.eval()
        try:
            sequences = backbone.tokenize(texts, role)[0]
            order = sorted(range(len(texts)), key=lambda row: -len(sequences[row]))
            filled = [row for row in order if sequences[row]]
            with torch.no_grad():
                blocks = [
                    self._vectors([sequences[row] for row in filled[start : start + _BATCH]])
                    for start in range(0, len(filled), _BATCH)
                ]
        finally:
            backbone.contract = before
            model.train(training)
        empty = csr_matrix((len(texts) - len(filled), len(backbone.vocabulary)), dtype=np.float32)
        return vstack([*blocks, empty], format="csr")[np.argsort(order, kind="stable")]

    def _vectors(self, sequences: list[list[int]]) -> csr_matrix:
        return csr_matrix(self.trainer.model_wrapped(**self.backbone.collate(sequences)).float().cpu().numpy())

    def _exact(self, queries: csr_matrix, impacts: csr_matrix) -> pd.DataFrame:
        """The best results by dot product; ties in the order of the documents, as everywhere here."""
        rows = []
        for qid, query in zip(self.data.topics["qid"], queries):
            scores = np.asarray((query @ impacts.T).todense()).ravel()
            best = np.argsort(-scores, kind="stable")[:_RESULTS]
            rows += [(qid, self.data.docnos[i], float(scores[i]), rank) for rank, i in enumerate(best) if scores[i] > 0]
        return pd.DataFrame(rows, columns=["qid", "docno", "score", "rank"])

    def _terrier(self, queries: csr_matrix, impacts: csr_matrix) -> tuple[pd.DataFrame, float]:
        from pyterrier_csplade._impacts import to_vectors
        from pyterrier_csplade._index import ImpactIndex

        vocabulary = self.backbone.vocabulary
        with tempfile.TemporaryDirectory() as folder:
            index = ImpactIndex(Path(folder) / "index")
            vectors = to_vectors(impacts, vocabulary)
            index.index({"docno": docno, "toks": toks} for docno, toks in zip(self.data.docnos, vectors))
            topics = self.data.topics.assign(query_toks=pd.Series(to_vectors(queries, vocabulary)))
            results = index.retriever(num_results=_RESULTS).transform(topics)
            size = sum(path.stat().st_size for path in index.directory.rglob("*") if path.is_file())
            index.close()
        return results, size
