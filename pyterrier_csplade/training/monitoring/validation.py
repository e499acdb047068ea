"""Validation during training: retrieval over a slice of a collection, selection of the best checkpoint, and early stopping.

The slice is drawn from the collection with a fixed seed, so that runs are comparable.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
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
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.data.directory import CollectionFiles, field_texts
from pyterrier_csplade.data.queries import draw
from pyterrier_csplade.data.sources import find_dataset
from pyterrier_csplade.model.backbone import Backbone, Role
from pyterrier_csplade.training.config import ValidationSettings, parse_measure
from pyterrier_csplade.training.own_tokens import OwnTokenFinder
from pyterrier_csplade.training.rows import passage_text
from pyterrier_csplade.training.training_encoder import collated
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.grounding import lexical_grounding
from pyterrier_csplade.vectors.impacts import Quantizer, to_vectors

# Texts in a batch, and results per query; our choice (not measured).
_BATCH = 32
_RESULTS = 1000
# Number of texts of each side for lexical grounding; our choice (not measured).
_GROUNDED = 1000
_SEED = 0
# Bytes of the lexicon per term; bytes per document of the document index and of the docno, which is stored twice.
_TERM_BYTES = 87
_DOCUMENT_BYTES = 110


@dataclass(frozen=True)
class Slice:
    """Part of a collection.

    Attributes:
        topics: Frame with qid and query.
        qrels: Frame with qid, docno and label.
        docnos: Docnos of the documents.
        texts: Texts of the documents.
    """

    topics: pd.DataFrame
    qrels: pd.DataFrame
    docnos: list[str]
    texts: list[str]


class Validation(TrainerCallback):
    """Evaluates the model at regular steps, marks the best checkpoint, and stops a run that no longer improves.

    The training log receives each measure with the prefix ``eval_``, ``eval_nnz_query``, ``eval_nnz_document``,
    ``eval_index_mb``, and the lexical grounding of both sides. A resumed run reads earlier validations from the log.
    """

    def __init__(self, trainer: Any, backbone: Backbone, contract: Contract, data: Slice, settings: ValidationSettings) -> None:
        """Watch a run."""
        self.trainer, self.backbone, self.contract = trainer, backbone, contract
        self.data, self.settings = data, settings
        self.measure = f"eval_{settings.measures[0]}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate every ``settings.steps`` steps and at the end of the run."""
        if state.global_step % self.settings.steps and state.global_step < args.max_steps:
            return
        # Not self.trainer.log, which would also log the figures recorded since the last point.
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
        """Encode and search the slice, and return the figures."""
        topics = self.data.topics["query"].tolist()
        queries = self.encode(topics, "query")
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
            **self._grounding(queries, topics, "query"),
            **self._grounding(impacts, self.data.texts, "document"),
        }

    def _grounding(self, vectors: csr_matrix, texts: list[str], role: Role) -> dict[str, float]:
        """Compute the lexical grounding of the first texts."""
        sequences = self.backbone.tokenize(texts[:_GROUNDED], role, self.contract)[0]
        own = OwnTokenFinder(self.backbone)(sequences, role).matrix(len(sequences), vectors.shape[1])
        return lexical_grounding(vectors[:_GROUNDED], own).figures(role)

    def encode(self, texts: list[str], role: Role) -> csr_matrix:
        """Encode texts into rows in their order. All processes do the same, as a sharded model requires."""
        backbone, model = self.backbone, self.trainer.model_wrapped
        training = model.training
        model.eval()
        try:
            sequences = backbone.tokenize(texts, role, self.contract)[0]
            order = sorted(range(len(texts)), key=lambda row: -len(sequences[row]))
            filled = [row for row in order if sequences[row]]
            with torch.no_grad():
                blocks = [
                    self._vectors([sequences[row] for row in filled[start : start + _BATCH]], role)
                    for start in range(0, len(filled), _BATCH)
                ]
        finally:
            model.train(training)
        empty = csr_matrix((len(texts) - len(filled), len(backbone.vocabulary)), dtype=np.float32)
        return vstack([*blocks, empty], format="csr")[np.argsort(order, kind="stable")]

    def _vectors(self, sequences: list[list[int]], role: Role) -> csr_matrix:
        part = collated(self.backbone, sequences, role)
        return csr_matrix(self.trainer.model_wrapped(**part).float().cpu().numpy())

    def _exact(self, queries: csr_matrix, impacts: csr_matrix) -> pd.DataFrame:
        """Rank by dot product. Documents with equal scores keep their order."""
        rows = []
        for qid, query in zip(self.data.topics["qid"], queries):
            scores = np.asarray((query @ impacts.T).todense()).ravel()
            best = np.argsort(-scores, kind="stable")[:_RESULTS]
            rows += [(qid, self.data.docnos[i], float(scores[i]), rank) for rank, i in enumerate(best) if scores[i] > 0]
        return pd.DataFrame(rows, columns=["qid", "docno", "score", "rank"])

    def _terrier(self, queries: csr_matrix, impacts: csr_matrix) -> tuple[pd.DataFrame, float]:
        from pyterrier_csplade.index.index import ImpactIndex

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


def index_bytes(impacts: csr_matrix) -> float:
    """Estimate the size of a Terrier index; within 2 % of the measured size for csplade-tiny with short docnos.

    Args:
        impacts: Positive int32 impacts, [documents, terms].

    Returns:
        Bytes of the impacts (unary) and gaps (gamma code) in the inverted and the direct index, the lexicon, the document index
        and the docnos.
    """
    used = impacts[:, np.unique(impacts.indices)]
    bits = 2 * float(used.data.sum(dtype=np.int64)) + _gap_bits(used) + _gap_bits(used.T.tocsr())
    return bits / 8 + _TERM_BYTES * used.shape[1] + _DOCUMENT_BYTES * used.shape[0]


def _gap_bits(lists: csr_matrix) -> float:
    """Return the bits of the gaps between the entries of each row in gamma code; a gap g takes 2 floor(log2 g) + 1 bits."""
    lists.sort_indices()
    before = np.concatenate([[-1], lists.indices[:-1]])
    before[lists.indptr[:-1][np.diff(lists.indptr) > 0]] = -1
    return float((2 * np.floor(np.log2(lists.indices - before)) + 1).sum())


def read_slice(settings: ValidationSettings) -> Slice:
    """Read a slice. Documents are drawn in one pass, so the collection can be larger than the memory.

    Raises:
        DataError: The collection or split does not exist, a judged document is missing, or no query has a relevant document.
    """
    topics, qrels = read_queries(settings)
    if Path(settings.collection).is_dir():
        documents = CollectionFiles(settings.collection).documents()
    else:
        documents = find_dataset(settings.collection).get_corpus_iter(verbose=False)
    docnos, texts = _draw(documents, set(qrels["docno"]), settings)
    return Slice(topics, qrels, docnos, texts)


def read_queries(settings: ValidationSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the topics and the judgements of a slice: at most ``settings.queries`` queries that have a relevant document.

    Raises:
        DataError: The collection or split does not exist, or no query has a relevant document.
    """
    if Path(settings.collection).is_dir():
        files = CollectionFiles(settings.collection)
        topics, qrels = files.topics(settings.split), files.qrels(settings.split)
    else:
        dataset = find_dataset(settings.collection)
        topics, qrels = dataset.get_topics()[["qid", "query"]], dataset.get_qrels()[["qid", "docno", "label"]]
    topics, qrels = topics.astype({"qid": str}), qrels.astype({"qid": str, "docno": str})
    if len(twice := topics["qid"][topics["qid"].duplicated()]):
        raise DataError(f"{settings.collection}: the query {twice.iloc[0]!r} appears twice in the split {settings.split!r}")
    relevant = set(qrels["qid"][qrels["label"] > 0])
    if len(unknown := sorted(relevant - set(topics["qid"]))):
        warn(
            f"{settings.collection}: {len(unknown):,} judged queries are not among the topics of the split "
            f"{settings.split!r} and are left out, such as {unknown[0]!r}"
        )
    topics = topics[topics["qid"].isin(relevant)]
    if not len(topics):
        raise DataError(f"{settings.collection}: no query of the split {settings.split!r} has a relevant document")
    if len(topics) > settings.queries:
        topics = topics.sample(settings.queries, random_state=_SEED)
    qrels = qrels[qrels["qid"].isin(set(topics["qid"]))]
    return topics.reset_index(drop=True), qrels.reset_index(drop=True)


def _draw(documents: Iterable[dict[str, Any]], judged: set[str], settings: ValidationSettings) -> tuple[list[str], list[str]]:
    """Return all judged documents, and others up to ``settings.documents`` (reservoir sampling)."""
    room = max(0, settings.documents - len(judged))
    kept: dict[str, str] = {}

    def others() -> Iterator[tuple[str, str]]:
        for document in documents:
            docno, text = field_texts(document, ("docno", "text"), f"{settings.collection}, document {document['docno']}")
            pair = docno, passage_text({**document, "text": text})
            if docno not in judged:
                yield pair
            elif docno in kept:
                raise DataError(f"{settings.collection}: the document {docno!r} appears twice: remove one")
            else:
                kept[docno] = pair[1]

    _, sample = draw(others(), room, random.Random(_SEED))
    missing = judged - kept.keys()
    if missing:
        raise DataError(f"{settings.collection}: {len(missing)} judged documents are missing, such as {min(missing)!r}")
    pairs = [*kept.items(), *sample]
    return [docno for docno, _ in pairs], [text for _, text in pairs]
