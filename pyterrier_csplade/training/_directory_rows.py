"""Training rows from a directory with documents, topics and triples of ids."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._jsonl import read_jsonl

from ._collection_files import CollectionFiles
from ._row_errors import RowErrors
from ._rows import TrainingRow, checked_row, passage_text


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
        row = errors.attempt(partial(_row, triple, queries, texts, where))
        if row is not None:
            yield row


def _row(triple: dict[str, Any], queries: dict[str, str], texts: dict[str, str], where: str) -> TrainingRow:
    qid, positives, negatives = triple.get("qid"), triple.get("pos"), triple.get("neg", [])
    if not isinstance(qid, str) or not isinstance(positives, list) or not isinstance(negatives, list):
        raise DataError(f"{where}: expected qid, pos and neg, found {', '.join(triple) or 'nothing'}")
    if qid not in queries:
        raise DataError(f"{where}: the query {qid!r} is in no topics file")
    for docno in chain(positives, negatives):
        if docno not in texts:
            raise DataError(f"{where}: the document {docno!r} is not in the collection")
    return checked_row(queries[qid], [texts[d] for d in positives], [texts[d] for d in negatives], where)
