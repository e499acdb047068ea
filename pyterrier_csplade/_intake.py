"""What comes to be indexed, dictionaries or matrices, through the same checks into a spool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from ._documents import check_docno, check_field, check_record, check_toks, term_error, to_impact_array, to_impacts
from ._errors import DataError
from ._spool import Spool
from ._vectors import EncodedVectors, check_encoded, checked_pieces

# Postings of dictionaries that are checked at once.
_BATCH = 2**16


def take_documents(documents: Iterable[Mapping[str, Any]], spool: Spool) -> None:
    """Check documents with ``docno``, ``toks`` and metadata fields, and put them into a spool.

    Raises:
        ContractError: Two documents come from different encoders.
        DataError: A document cannot be indexed exactly; names it.
        OSError: The spool cannot be written.
    """
    batch = _Batch(spool)
    position = 0
    try:
        for position, document in enumerate(documents, start=1):
            _take(document, position, spool, batch)
    except Exception as error:
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"after {position:,} documents; nothing was indexed")
        raise
    batch.put()
    spool.flush()


def take_vectors(encoded: EncodedVectors, fields: Mapping[str, Iterable[str]], spool: Spool, *, verbose: bool = False) -> None:
    """Check encoded documents, and put them into a spool.

    Args:
        encoded: The documents. Entries that stand twice are added up, as scipy does.
        fields: Metadata field to its values, one for each document.
        spool: Takes them.
        verbose: Whether to show a progress bar.

    Raises:
        DataError: A document cannot be indexed exactly (names it), there are more or fewer documents or values than
            promised, or a term stands twice in the vocabulary.
        OSError: The spool cannot be written.
    """
    check_encoded(encoded)
    spool.encoder.contract = encoded.contract
    columns = _Columns(encoded.vocabulary, spool)
    values = {name: iter(texts) for name, texts in fields.items()}
    position = 0
    with pt.tqdm(total=len(encoded), desc="ImpactIndexer", unit="d", disable=not verbose) as bar:
        for docnos, matrix in checked_pieces(encoded):
            accepted = []
            for row, given in enumerate(docnos):
                position += 1
                document = {name: next(texts, None) for name, texts in values.items()}
                docno = check_docno({"docno": given}, position)
                if spool.accept(docno, position):
                    checked = {name: check_field(document, name, docno) for name in document}
                    spool.put_fields({"docno": docno, **checked}, docno)
                    accepted.append(row)
            columns.put(matrix if len(accepted) == len(docnos) else matrix[accepted], docnos, accepted)
            bar.update(len(docnos))
    spool.flush()


def _take(document: object, position: int, spool: Spool, batch: _Batch) -> None:
    record = check_record(document, f"document {position}")
    docno = check_docno(record, position)
    if not spool.accept(docno, position):
        return
    if "toks" not in record:
        raise DataError(f"document {docno!r} has no toks: put a document encoder before the index")
    toks = check_toks(record["toks"], docno)
    spool.encoder.observe(getattr(toks, "contract", None), f"document {docno!r}")
    spool.put_fields({name: check_field(record, name, docno) for name in spool.lengths}, docno)
    batch.add(docno, toks)


class _Batch:
    """Documents that wait to be checked together."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._start()

    def _start(self) -> None:
        self._docnos: list[str] = []
        self._counts: list[int] = []
        self._columns: list[int] = []
        self._weights: list[Any] = []

    def add(self, docno: str, toks: Mapping[str, Any]) -> None:
        try:
            self._columns.extend(map(self._spool.terms.__getitem__, toks))
        except KeyError as error:
            raise term_error(error.args[0], docno) from None
        self._weights.extend(toks.values())
        self._docnos.append(docno)
        self._counts.append(len(toks))
        if len(self._weights) + len(self._docnos) >= _BATCH:
            self.put()

    def put(self) -> None:
        counts, columns = np.array(self._counts, dtype=np.int64), np.array(self._columns, dtype=np.int32)
        weights = _as_array(self._weights)
        impacts = to_impact_array(weights, counts)
        if impacts is None:
            terms = list(self._spool.terms)
            impacts = _one_by_one(self._docnos, counts, [terms[column] for column in self._columns], self._weights)
        if weights.dtype.kind not in "iub":
            self._spool.fractional |= any(weight % 1 for weight in self._weights)
        _put(counts, columns, impacts, self._spool)
        self._start()


class _Columns:
    """The columns of matrices, numbered as terms of a spool when they are first used."""

    def __init__(self, vocabulary: Sequence[str], spool: Spool) -> None:
        self._vocabulary = list(vocabulary)
        self._spool = spool
        self._numbers = np.full(len(self._vocabulary), -1, dtype=np.int32)

    def put(self, matrix: csr_matrix, docnos: Sequence[str], rows: Sequence[int]) -> None:
        """Put a matrix of which the rows are those of some docnos."""
        counts = np.diff(matrix.indptr).astype(np.int64)
        self._number(matrix, docnos, rows)
        impacts = to_impact_array(matrix.data, counts)
        if impacts is None:
            names = [self._vocabulary[column] for column in matrix.indices.tolist()]
            impacts = _one_by_one([docnos[row] for row in rows], counts, names, matrix.data.tolist())
        self._spool.fractional |= matrix.dtype.kind == "f" and bool((matrix.data % 1).any())
        _put(counts, self._numbers[matrix.indices], impacts, self._spool)

    def _number(self, matrix: csr_matrix, docnos: Sequence[str], rows: Sequence[int]) -> None:
        used = np.zeros(len(self._numbers), dtype=bool)
        used[matrix.indices] = True
        for column in np.flatnonzero(used & (self._numbers < 0)).tolist():
            term = self._vocabulary[column]
            try:
                self._numbers[column] = self._spool.terms[term]
            except KeyError:
                place = np.flatnonzero(matrix.indices == column)[0]
                row = rows[int(np.searchsorted(matrix.indptr, place, side="right")) - 1]
                raise term_error(term, docnos[row]) from None


def _as_array(weights: list[Any]) -> np.ndarray:
    try:
        array = np.array(weights) if weights else np.zeros(0, dtype=np.int64)
    except (ValueError, OverflowError, TypeError):  # of lists, which have no common shape
        return np.array([None])
    return array if array.ndim == 1 else np.array([None])


def _one_by_one(docnos: Sequence[str], counts: np.ndarray, terms: Sequence[str], weights: Sequence[Any]) -> np.ndarray:
    """Return the impacts of weights that are no plain numbers, or raise the error that names the first that is no impact."""
    impacts, start = [], 0
    for docno, count in zip(docnos, counts.tolist()):
        document = dict(zip(terms[start : start + count], weights[start : start + count]))
        positive = to_impacts(document, docno)
        impacts += [positive.get(term, 0) for term in document]
        start += count
    return np.array(impacts, dtype=np.int64)


def _put(counts: np.ndarray, columns: np.ndarray, impacts: np.ndarray, spool: Spool) -> None:
    """Put the positive impacts of documents into a spool."""
    positive = impacts > 0
    before = np.concatenate([[0], np.cumsum(positive)])
    ends = np.cumsum(counts)
    spool.put_impacts(before[ends] - before[ends - counts], columns[positive], impacts[positive])
