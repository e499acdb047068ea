"""Training rows from PyTerrier datasets, those of ir_datasets included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from pyterrier_csplade._errors import DataError

from ._corpus import find_dataset
from ._row_errors import RowErrors
from ._rows import TrainingRow, checked_row, passage_text

# Negatives of a query that are kept, so that the hundreds of millions of pairs of msmarco-passage/train fit in memory. Ours.
_MOST_NEGATIVES = 100

_Ids = dict[str, dict[str, None]]  # query id to document ids in their order, each once


def read_dataset_rows(name: str, errors: RowErrors) -> Iterator[TrainingRow]:
    """Yield a training row for each query that has a relevant document.

    Positives are the documents judged relevant (label above 0). Negatives are those of ``docpairs`` or else ``scoreddocs``
    where an ir_datasets dataset has them, without the positives; other datasets have none, which leaves those of the batch.

    Args:
        name: Name of a PyTerrier dataset, for example ``irds:msmarco-passage/train``.
        errors: Notes rows that cannot be used: a relevant document that is not in the corpus, an empty text.
    """
    dataset = find_dataset(name)
    if hasattr(dataset, "irds_ref"):
        yield from _irds_rows(dataset.irds_ref(), name, errors)
        return
    positives: _Ids = defaultdict(dict)
    for judgement in dataset.get_qrels().itertuples():
        if judgement.label > 0:
            positives[judgement.qid][judgement.docno] = None
    needed = {document for documents in positives.values() for document in documents}
    texts = {d["docno"]: passage_text(d) for d in dataset.get_corpus_iter(verbose=False) if d["docno"] in needed}
    queries = ((topic.qid, topic.query) for topic in dataset.get_topics().itertuples())
    yield from _rows(queries, positives, {}, texts, name, errors)


def _irds_rows(dataset: Any, name: str, errors: RowErrors) -> Iterator[TrainingRow]:
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
    queries = ((q.query_id, q.default_text()) for q in dataset.queries_iter())
    yield from _rows(queries, positives, negatives, texts, name, errors)


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


def _rows(
    queries: Iterable[tuple[str, str]], positives: _Ids, negatives: _Ids, texts: Any, name: str, errors: RowErrors
) -> Iterator[TrainingRow]:
    for query, text in queries:
        if query in positives:
            hard = [document for document in negatives.get(query, {}) if document not in positives[query]]
            row = errors.attempt(partial(_row, text, list(positives[query]), hard, texts, f"{name}, query {query}"))
            if row is not None:
                yield row


def _row(query: str, positives: list[str], negatives: list[str], texts: Any, where: str) -> TrainingRow:
    try:
        relevant, others = [texts[d] for d in positives], [texts[d] for d in negatives]
    except KeyError as error:
        raise DataError(f"{where}: the document {error} is not in the corpus") from error
    return checked_row(query, relevant, others, where)
