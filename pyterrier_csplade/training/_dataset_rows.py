"""Training rows from PyTerrier datasets, those of ir_datasets included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import DataError

from ._rows import TrainingRow, checked_row, passage_text

# Negatives of a query that are kept, so that the hundreds of millions of pairs of msmarco-passage/train fit in memory. Ours.
_MOST_NEGATIVES = 100

_Ids = dict[str, dict[str, None]]  # query id to document ids in their order, each once


def read_dataset_rows(name: str) -> Iterator[TrainingRow]:
    """Yield a training row for each query that has a relevant document.

    Positives are the documents judged relevant (label above 0). Negatives are those of ``docpairs`` or else ``scoreddocs``
    where an ir_datasets dataset has them, without the positives; other datasets have none, which leaves those of the batch.

    Args:
        name: Name of a PyTerrier dataset, for example ``irds:msmarco-passage/train``.

    Raises:
        DataError: A relevant document is not in the corpus, or a text is empty.
    """
    dataset = pt.get_dataset(name)
    if hasattr(dataset, "irds_ref"):
        yield from _irds_rows(dataset.irds_ref(), name)
        return
    positives: _Ids = defaultdict(dict)
    for judgement in dataset.get_qrels().itertuples():
        if judgement.label > 0:
            positives[judgement.qid][judgement.docno] = None
    needed = {document for documents in positives.values() for document in documents}
    texts = {d["docno"]: passage_text(d) for d in dataset.get_corpus_iter(verbose=False) if d["docno"] in needed}
    queries = ((topic.qid, topic.query) for topic in dataset.get_topics().itertuples())
    yield from _rows(queries, positives, {}, texts, name)


def _irds_rows(dataset: Any, name: str) -> Iterator[TrainingRow]:
    positives: _Ids = defaultdict(dict)
    negatives: _Ids = defaultdict(dict)
    if dataset.has_qrels():
        for judgement in dataset.qrels_iter():
            if judgement.relevance > 0:
                positives[judgement.query_id][judgement.doc_id] = None
    for query, positive, negative in _negatives(dataset):
        if positive is not None:
            positives[query][positive] = None
        if len(negatives[query]) < _MOST_NEGATIVES:
            negatives[query][negative] = None
    texts = _Texts(dataset.docs_store())
    yield from _rows(((q.query_id, q.default_text()) for q in dataset.queries_iter()), positives, negatives, texts, name)


def _negatives(dataset: Any) -> Iterator[tuple[str, str | None, str]]:
    """(query, positive if the dataset says so, negative)."""
    if dataset.has_docpairs():
        judged = dataset.has_qrels()
        yield from ((pair.query_id, None if judged else pair.doc_id_a, pair.doc_id_b) for pair in dataset.docpairs_iter())
    elif dataset.has_scoreddocs():
        yield from ((scored.query_id, None, scored.doc_id) for scored in dataset.scoreddocs_iter())


class _Texts:
    """The texts of ir_datasets' documents, by id."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getitem__(self, document: str) -> str:
        found = self.store.get(document)
        values = found._asdict()
        return passage_text(values) if isinstance(values.get("text"), str) else str(found.default_text())


def _rows(queries: Iterable[tuple[str, str]], positives: _Ids, negatives: _Ids, texts: Any, name: str) -> Iterator[TrainingRow]:
    for query, text in queries:
        if query in positives:
            hard = [document for document in negatives.get(query, {}) if document not in positives[query]]
            where = f"{name}, query {query}"
            try:
                relevant, others = [texts[d] for d in positives[query]], [texts[d] for d in hard]
            except KeyError as error:
                raise DataError(f"{where}: the document {error} is not in the corpus") from error
            yield checked_row(text, relevant, others, where)
