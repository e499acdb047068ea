"""Training rows from PyTerrier datasets, those of ir_datasets included."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.data.directory import CollectionFiles
from pyterrier_csplade.data.jsonl import parse_object, read_jsonl, read_lines
from pyterrier_csplade.data.sources import find_dataset

from .rows import RowErrors, TrainingRow, checked_row, passage_text

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
            row = errors.attempt(partial(_dataset_row, text, list(positives[query]), hard, texts, f"{name}, query {query}"))
            if row is not None:
                yield row


def _dataset_row(query: str, positives: list[str], negatives: list[str], texts: Any, where: str) -> TrainingRow:
    try:
        relevant, others = [texts[d] for d in positives], [texts[d] for d in negatives]
    except KeyError as error:
        raise DataError(f"{where}: the document {error} is not in the corpus") from error
    return checked_row(query, relevant, others, where)


def read_rows(data: str | list[str], *, max_bad_rows: int = 0) -> Iterator[TrainingRow]:
    """Yield training rows.

    Args:
        data: ``.jsonl`` or ``.jsonl.gz`` files, directories of a collection with ``train.triples.jsonl``, or the name of a
            PyTerrier dataset (``irds:`` ids included).
        max_bad_rows: Rows that may be unusable: they are left out, with a warning that names and counts them.

    Raises:
        DataError: More rows than allowed cannot be used; the message counts them and names file and line, or the query. Or a
            source has none.
    """
    errors, empty = RowErrors(max_bad_rows), []
    for source in [data] if isinstance(data, str) else data:
        rows = _read_source(source, errors)
        if (first := next(rows, None)) is None:
            empty.append(source)
        else:
            yield first
            yield from rows
    errors.finish()
    if empty:
        raise DataError(f"{empty[0]} has no rows")


def _read_source(source: str, errors: RowErrors) -> Iterator[TrainingRow]:
    if source.endswith((".jsonl", ".jsonl.gz")):
        for number, line in read_lines(source):
            row = errors.attempt(partial(_parsed_row, line, f"{source}, line {number}"))
            if row is not None:
                yield row
    elif Path(source).is_dir():
        yield from read_directory_rows(source, errors)
    else:
        yield from read_dataset_rows(source, errors)


def _parsed_row(line: str, where: str) -> TrainingRow:
    return _row(parse_object(line, where), where)


def _row(values: dict[str, Any], where: str) -> TrainingRow:
    for key in ("query", "positive_passages"):
        if key not in values:
            raise DataError(f"{where}: {key!r} is missing; expected query, positive_passages and negative_passages")
    positives = _passages(values["positive_passages"], f"{where}: positive_passages")
    negatives = _passages(values.get("negative_passages") or [], f"{where}: negative_passages")
    texts = [[passage_text(passage) for passage in side] for side in (positives, negatives)]
    return checked_row(values["query"], texts[0], texts[1], where, _scores([*positives, *negatives], where))


def _scores(passages: list[dict[str, Any]], where: str) -> list[float] | None:
    """A teacher's scores, if the passages have them."""
    scores = [passage["score"] for passage in passages if passage.get("score") is not None]
    if not scores:
        return None
    if len(scores) < len(passages):
        raise DataError(f"{where}: {len(scores)} of {len(passages)} passages have a score; give all of them one, or none")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise DataError(f"{where}: a score is no finite number: {score!r}")
    return [float(score) for score in scores]


def _passages(values: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise DataError(f"{where}: expected a list, found {type(values).__name__}")
    for passage in values:
        if not isinstance(passage, dict) or not isinstance(passage.get("text"), str):
            raise DataError(f"{where}: expected objects with a 'text', found {str(passage)[:60]!r}")
        if not isinstance(passage.get("title") or "", str):
            raise DataError(f"{where}: a title is no text: {passage['title']!r}")
    return values


def read_directory_rows(directory: str, errors: RowErrors) -> Iterator[TrainingRow]:
    """Yield a training row for each line of ``train.triples.jsonl``.

    Only the texts that the triples name are kept in memory.

    Args:
        directory: As ``CollectionFiles`` describes it.
        errors: Notes rows that cannot be used: an unknown qid or docno, a query without positives, an empty text.
    """
    files = CollectionFiles(directory)
    path = files.find("train.triples.jsonl")
    needed: set[str] = set()
    for _, triple in read_jsonl(path):
        for key in ("pos", "neg"):
            if isinstance(triple.get(key), list):
                needed.update(docno for docno in triple[key] if isinstance(docno, str))
    texts = {d["docno"]: passage_text(d) for d in files.documents() if d["docno"] in needed}
    queries = files.training_topics()
    for number, triple in read_jsonl(path):
        where = f"{path}, line {number}"
        row = errors.attempt(partial(_directory_row, triple, queries, texts, where))
        if row is not None:
            yield row


def _directory_row(triple: dict[str, Any], queries: dict[str, str], texts: dict[str, str], where: str) -> TrainingRow:
    qid, positives, negatives = triple.get("qid"), triple.get("pos"), triple.get("neg", [])
    if not isinstance(qid, str) or not isinstance(positives, list) or not isinstance(negatives, list):
        raise DataError(f"{where}: expected qid, pos and neg, found {', '.join(triple) or 'nothing'}")
    if qid not in queries:
        raise DataError(f"{where}: the query {qid!r} is in no topics file")
    for docno in chain(positives, negatives):
        if docno not in texts:
            raise DataError(f"{where}: the document {docno!r} is not in the collection")
    return checked_row(queries[qid], [texts[d] for d in positives], [texts[d] for d in negatives], where)
