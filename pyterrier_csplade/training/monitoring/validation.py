"""Validation in the course of training: retrieval over a slice of a collection, the best checkpoint, early stopping."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import torch
from scipy.sparse import csr_matrix, vstack
from transformers import Trainer, TrainerCallback

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.data.directory import CollectionFiles
from pyterrier_csplade.data.sources import find_dataset
from pyterrier_csplade.model.backbone import Backbone, Role
from pyterrier_csplade.training.config import ValidationSettings, parse_measure
from pyterrier_csplade.training.rows import passage_text
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import Quantizer

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
        training = model.training
        model.eval()
        try:
            sequences = backbone.tokenize(texts, role, self.contract)[0]
            order = sorted(range(len(texts)), key=lambda row: -len(sequences[row]))
            filled = [row for row in order if sequences[row]]
            with torch.no_grad():
                blocks = [
                    self._vectors([sequences[row] for row in filled[start : start + _BATCH]])
                    for start in range(0, len(filled), _BATCH)
                ]
        finally:
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
        from pyterrier_csplade.index.index import ImpactIndex
        from pyterrier_csplade.vectors.impacts import to_vectors

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


# Beside the postings: an entry of the lexicon for each term; of the document index, and the docno twice, for each document.
_TERM_BYTES = 87
_DOCUMENT_BYTES = 110


def index_bytes(impacts: csr_matrix) -> float:
    """Estimate the size of the index of some impacts: within 2% of what was measured for csplade-tiny, with short docnos.

    Args:
        impacts: int32 matrix [documents, terms], above 0.

    Returns:
        Bytes: unary impacts and gamma-coded gaps of both directions, the lexicon, the document index and the docnos.
    """
    used = impacts[:, np.unique(impacts.indices)]
    bits = 2 * float(used.data.sum(dtype=np.int64)) + _gap_bits(used) + _gap_bits(used.T.tocsr())
    return bits / 8 + _TERM_BYTES * used.shape[1] + _DOCUMENT_BYTES * used.shape[0]


def _gap_bits(lists: csr_matrix) -> float:
    """Bits of the gaps between the entries of each row in gamma code: a gap g takes 2 floor(log2 g) + 1."""
    lists.sort_indices()
    before = np.concatenate([[-1], lists.indices[:-1]])
    before[lists.indptr[:-1][np.diff(lists.indptr) > 0]] = -1
    return float((2 * np.floor(np.log2(lists.indices - before)) + 1).sum())


# The slice is the same in every run, so that runs compare.
_SEED = 0


@dataclass(frozen=True)
class Slice:
    """Queries, judgements and documents.

    Attributes:
        topics: With qid and query.
        qrels: With qid, docno and label.
        docnos: Of the documents.
        texts: Of the documents.
    """

    topics: pd.DataFrame
    qrels: pd.DataFrame
    docnos: list[str]
    texts: list[str]


def read_slice(settings: ValidationSettings) -> Slice:
    """Read a slice; documents are drawn in one pass, so that the collection may be larger than the memory.

    Raises:
        DataError: There is no such collection or split, a judged document is missing, or no query has a judgement.
    """
    if Path(settings.collection).is_dir():
        files = CollectionFiles(settings.collection)
        topics, qrels, documents = files.topics(settings.split), files.qrels(settings.split), files.documents()
    else:
        dataset = find_dataset(settings.collection)
        topics, qrels = dataset.get_topics()[["qid", "query"]], dataset.get_qrels()[["qid", "docno", "label"]]
        documents = dataset.get_corpus_iter(verbose=False)
    topics = topics.astype({"qid": str})
    qrels = qrels.astype({"qid": str, "docno": str})
    topics = judged_topics(topics, qrels, settings)
    if len(topics) > settings.queries:
        topics = topics.sample(settings.queries, random_state=_SEED)
    qrels = qrels[qrels["qid"].isin(set(topics["qid"]))]
    docnos, texts = _draw(documents, set(qrels["docno"]), settings)
    return Slice(topics.reset_index(drop=True), qrels.reset_index(drop=True), docnos, texts)


def judged_topics(topics: pd.DataFrame, qrels: pd.DataFrame, settings: ValidationSettings) -> pd.DataFrame:
    """The queries that have a relevant document.

    Raises:
        DataError: None has.
    """
    judged = topics[topics["qid"].isin(set(qrels["qid"][qrels["label"] > 0]))]
    if not len(judged):
        raise DataError(f"{settings.collection}: no query of the split {settings.split!r} has a relevant document")
    return judged


def _draw(documents: Iterable[dict[str, Any]], judged: set[str], settings: ValidationSettings) -> tuple[list[str], list[str]]:
    """All judged documents, and as many others as there is room for (reservoir sampling)."""
    room = max(0, settings.documents - len(judged))
    rng = random.Random(_SEED)
    kept: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    seen = 0
    for document in documents:
        pair = str(document["docno"]), passage_text(document)
        if pair[0] in judged:
            kept.append(pair)
            continue
        seen += 1
        if len(others) < room:
            others.append(pair)
        elif (place := rng.randrange(seen)) < room:
            others[place] = pair
    missing = judged - {docno for docno, _ in kept}
    if missing:
        raise DataError(f"{settings.collection}: {len(missing)} judged documents are not there, such as {min(missing)!r}")
    pairs = [*kept, *others]
    return [docno for docno, _ in pairs], [text for _, text in pairs]
