"""Reading of training rows from JSONL files, directories of a collection, and datasets of PyTerrier and ir_datasets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.data.directory import CollectionFiles, field_texts
from pyterrier_csplade.data.jsonl import parse_object, read_jsonl, read_lines
from pyterrier_csplade.data.sources import find_dataset

from .fields import shown
from .rows import RowErrors, TrainingRow, checked_row, passage_text

# Maximum negatives kept per query, so that the hundreds of millions of pairs of msmarco-passage/train fit into memory; our
# choice (not measured).
_MOST_NEGATIVES = 100
# Largest magnitude of a score, which is stored as float32.
_LARGEST_SCORE = 2.0**127

_Makers = Iterator[Callable[[], TrainingRow]]  # functions that make a row, or raise a DataError if it cannot be used
_Ids = dict[str, dict[str, None]]  # query id to document ids in their order, each once


def read_rows(data: str | list[str], *, max_bad_rows: int = 0) -> Iterator[TrainingRow]:
    """Yield training rows.

    Args:
        data: ``.jsonl`` or ``.jsonl.gz`` files, directories of a collection with ``train.triples.jsonl``, or the name of a
            PyTerrier dataset (``irds:`` ids included).
        max_bad_rows: Number of unusable rows to tolerate. They are left out, with a warning that counts them and names some.

    Raises:
        DataError: More rows than allowed are unusable (the message counts them and names file and line, or the query), or a
            source has no rows.
    """
    errors, empty = RowErrors(max_bad_rows), []
    for source in [data] if isinstance(data, str) else data:
        before = errors.good
        for make in _read_source(source):
            row = errors.attempt(make)
            if row is not None:
                yield row
        if errors.good == before:
            empty.append(source)
    errors.finish()
    if empty:
        raise DataError(f"{empty[0]} has no rows")


def _read_source(source: str) -> _Makers:
    if source.endswith((".jsonl", ".jsonl.gz")):
        return (partial(_parsed_row, line, f"{source}, line {number}") for number, line in read_lines(source))
    if Path(source).is_dir():
        return _directory_rows(CollectionFiles(source))
    dataset = find_dataset(source)
    return _irds_rows(dataset.irds_ref(), source) if hasattr(dataset, "irds_ref") else _dataset_rows(dataset, source)


# ---------------------------------------------------------------------- JSONL files in Tevatron's format


def _parsed_row(line: str, where: str) -> TrainingRow:
    values = parse_object(line, where)
    for key in ("query", "positive_passages"):
        if key not in values:
            raise DataError(f"{where}: {key!r} is missing; expected query, positive_passages and negative_passages")
    positives = _passages(values["positive_passages"], f"{where}: positive_passages")
    negatives = _passages(values.get("negative_passages") or [], f"{where}: negative_passages")
    texts = [[passage_text(passage) for passage in side] for side in (positives, negatives)]
    return checked_row(values["query"], texts[0], texts[1], where, _scores([*positives, *negatives], where))


def _passages(values: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise DataError(f"{where}: expected a list, found {type(values).__name__}")
    for passage in values:
        if not isinstance(passage, dict) or not isinstance(passage.get("text"), str):
            raise DataError(f"{where}: expected objects with a 'text', found {shown(passage)}")
        if not isinstance(passage.get("title") or "", str):
            raise DataError(f"{where}: expected a title to be a string, found {shown(passage['title'])}")
    return values


def _scores(passages: list[dict[str, Any]], where: str) -> list[float] | None:
    """Return the teacher's scores; None if no passage has one."""
    scores = [passage["score"] for passage in passages if passage.get("score") is not None]
    if not scores:
        return None
    if len(scores) < len(passages):
        raise DataError(f"{where}: {len(scores)} of {len(passages)} passages have a score: give all of them a score, or none")
    for score in scores:
        number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if not (number and -_LARGEST_SCORE < score < _LARGEST_SCORE):  # also false for NaN
            raise DataError(f"{where}: expected a score to be a finite number, found {shown(score)}")
    return [float(score) for score in scores]


# ---------------------------------------------------------------------- directories of a collection


def _directory_rows(files: CollectionFiles) -> _Makers:
    """Yield a row for each line of ``train.triples.jsonl``. Only the texts in the triples are kept in memory."""
    path = files.find("train.triples.jsonl")
    needed: set[str] = set()
    for _, triple in read_jsonl(path):
        for key in ("pos", "neg"):
            if isinstance(triple.get(key), list):
                needed.update(docno for docno in triple[key] if isinstance(docno, str))
    texts = _texts_of(files.documents(), needed, str(files.docs))
    queries = files.training_topics()
    for number, triple in read_jsonl(path):
        yield partial(_directory_row, triple, queries, texts, f"{path}, line {number}")


def _directory_row(triple: dict[str, Any], queries: dict[str, str], texts: dict[str, str], where: str) -> TrainingRow:
    qid, positives, negatives = triple.get("qid"), triple.get("pos"), triple.get("neg", [])
    if not isinstance(qid, str) or not isinstance(positives, list) or not isinstance(negatives, list):
        raise DataError(f"{where}: expected qid, pos and neg, found {', '.join(triple)[:60] or 'nothing'}")
    for docno in (*positives, *negatives):
        if not isinstance(docno, str):
            raise DataError(f"{where}: expected docnos in pos and neg, found {shown(docno)}")
    if qid not in queries:
        raise DataError(f"{where}: no topics file contains the query {shown(qid)}")
    return _row_by_ids(queries[qid], positives, negatives, texts, where)


def _texts_of(documents: Iterable[dict[str, Any]], needed: set[str], source: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for document in documents:
        if document["docno"] not in needed:
            continue
        docno, text = field_texts(document, ("docno", "text"), f"{source}, document {document['docno']}")
        whole = passage_text({**document, "text": text})
        if texts.setdefault(docno, whole) != whole:
            raise DataError(f"{source}: the document {docno!r} appears twice, with different texts: remove one")
    return texts


def _row_by_ids(query: str, positives: Iterable[str], negatives: Iterable[str], texts: Any, where: str) -> TrainingRow:
    try:
        relevant, others = [texts[docno] for docno in positives], [texts[docno] for docno in negatives]
    except KeyError as error:
        raise DataError(f"{where}: the document {error} is not in the collection") from error
    return checked_row(query, relevant, others, where)


# ---------------------------------------------------------------------- datasets


def _dataset_rows(dataset: Any, name: str) -> _Makers:
    """Yield a row without hard negatives for each query with a relevant document (label above 0)."""
    positives: _Ids = defaultdict(dict)
    for judgement in dataset.get_qrels().itertuples():
        if judgement.label > 0:
            positives[judgement.qid][judgement.docno] = None
    needed = {document for documents in positives.values() for document in documents}
    texts = _texts_of(dataset.get_corpus_iter(verbose=False), needed, name)
    queries = ((topic.qid, topic.query) for topic in dataset.get_topics().itertuples())
    return _judged_rows(queries, positives, {}, texts, name)


def _irds_rows(dataset: Any, name: str) -> _Makers:
    """Yield a row for each query with a relevant document.

    Positives come from the judgements (label above 0), or else from ``docpairs``. Negatives come from ``docpairs``, or else
    from ``scoreddocs``, without the positives.
    """
    positives: _Ids = defaultdict(dict)
    negatives: _Ids = defaultdict(dict)
    if dataset.has_qrels():
        for judgement in dataset.qrels_iter():
            if judgement.relevance > 0:
                positives[judgement.query_id][judgement.doc_id] = None
    for query, positive, negative in _pairs(dataset):
        if positive is not None:
            positives[query][positive] = None
        if len(negatives[query]) < _MOST_NEGATIVES:
            negatives[query][negative] = None
    queries = ((query.query_id, query.default_text()) for query in dataset.queries_iter())
    return _judged_rows(queries, positives, negatives, _StoredTexts(dataset.docs_store()), name)


def _pairs(dataset: Any) -> Iterator[tuple[str, str | None, str]]:
    """Yield a query, a positive if there are no judgements, and a negative."""
    if dataset.has_docpairs():
        judged = dataset.has_qrels()
        yield from ((pair.query_id, None if judged else pair.doc_id_a, pair.doc_id_b) for pair in dataset.docpairs_iter())
    elif dataset.has_scoreddocs():
        yield from ((scored.query_id, None, scored.doc_id) for scored in dataset.scoreddocs_iter())


class _StoredTexts:
    """The texts of ir_datasets' documents, by id."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getitem__(self, document: str) -> str:
        found = self.store.get(document)
        values = found._asdict()
        return passage_text(values) if isinstance(values.get("text"), str) else str(found.default_text())


def _judged_rows(queries: Iterable[tuple[str, str]], positives: _Ids, negatives: _Ids, texts: Any, name: str) -> _Makers:
    used, without = set(), 0
    for query, text in queries:
        if query in positives:
            used.add(query)
            hard = [document for document in negatives.get(query, {}) if document not in positives[query]]
            yield partial(_row_by_ids, text, positives[query], hard, texts, f"{name}, query {query}")
        else:
            without += 1
    if without:
        warn(f"{name}: {without:,} queries have no relevant document and are left out")
    if unknown := [query for query in positives if query not in used]:
        warn(f"{name}: {len(unknown):,} judged queries are not among the topics and are left out, such as {unknown[0]!r}")
