"""What Terrier can index without loss: the check of each document before it sees the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.vectors.checks import check_docno, check_encoded, check_field, check_record
from pyterrier_csplade.vectors.impacts import MAX_IMPACT
from pyterrier_csplade.vectors.matrices import EncodedVectors, checked_pieces
from pyterrier_csplade.vectors.vocabulary import MAX_TERM_BYTES, is_index_term

from .spool import Spool


def check_order(terms: Iterable[str]) -> None:
    """Refuse terms that hide each other: Terrier sorts lexicons by UTF-16, in a merge for one, and searches them by UTF-8.

    Args:
        terms: The terms of an index.

    Raises:
        DataError: The two orders differ; names two terms.
    """
    by_utf8 = sorted(term for term in terms if max(term) >= "\ue000")  # the two agree on all others
    for one, other in zip(by_utf8, sorted(by_utf8, key=lambda term: term.encode("utf-16-be"))):
        if one != other:
            raise DataError(
                f"Terrier cannot find {one!r} and {other!r} in one index (UTF-16 sorts them otherwise): leave one out"
            )


def check_toks(toks: object, docno: str) -> Mapping[str, Any]:
    """Return the ``toks`` of a document.

    Raises:
        DataError: They are not a dict.
    """
    if not isinstance(toks, Mapping):
        raise DataError(f"document {docno!r}: toks must be a dict of term to weight, found {type(toks).__name__}")
    return toks


def term_error(term: object, docno: str) -> DataError:
    """Return the error that says that Terrier's lexicon cannot hold a term."""
    return DataError(
        f"document {docno!r}: Terrier cannot index the term {term!r}: terms have 1 to {MAX_TERM_BYTES} bytes of UTF-8"
    )


def to_impacts(toks: object, docno: str) -> dict[str, int]:
    """Turn the ``toks`` of a document into the impacts that are indexed.

    Weights are rounded half up; those that become 0, and those below, are left out.

    Args:
        toks: Term to weight.
        docno: The document, for messages.

    Returns:
        Term to impact, from 1 to 2**31 - 1, in the order given.

    Raises:
        DataError: ``toks`` is not a dict, a term is one that Terrier's lexicon cannot hold, a weight is not a finite number,
            or an impact, or the sum of the impacts, is above 2**31 - 1.
    """
    impacts = {}
    for term, weight in check_toks(toks, docno).items():
        if not (isinstance(term, str) and is_index_term(term)):
            raise term_error(term, docno)
        impact = _round(weight, term, docno)
        if impact > 0:
            impacts[term] = impact
    # Terrier adds up the length of a document in a Java int.
    if sum(impacts.values()) > MAX_IMPACT:
        raise DataError(f"document {docno!r}: the impacts add up to more than {MAX_IMPACT:,}: use a smaller scale")
    return impacts


def to_impact_array(weights: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """Do for many documents at once what :func:`to_impacts` does for one, where all is well.

    Args:
        weights: Of one document after the other.
        counts: How many each document has.

    Returns:
        int64 array of the same length, with numbers below 1 where there is no impact; None if :func:`to_impacts` may refuse a
        document.
    """
    if weights.dtype.kind not in "iubf" or not np.isfinite(weights).all() or weights.max(initial=0) > MAX_IMPACT:
        return None
    rounded = np.floor(weights.astype(np.float64) + 0.5) if weights.dtype.kind == "f" else weights
    # A weight below 0 of any size leaves nothing.
    impacts = np.maximum(rounded, 0).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(impacts)])
    ends = np.cumsum(counts)
    return impacts if (sums[ends] - sums[ends - counts]).max(initial=0) <= MAX_IMPACT else None


def _round(weight: object, term: str, docno: str) -> int:
    if not isinstance(weight, Integral) and not (isinstance(weight, Real) and math.isfinite(weight)):
        raise DataError(f"document {docno!r}: the weight of {term!r} must be a finite number, found {weight!r}")
    impact = int(weight) if isinstance(weight, Integral) else math.floor(float(weight) + 0.5)
    if impact > MAX_IMPACT:
        raise DataError(f"document {docno!r}: the impact of {term!r} is {weight!r}, above {MAX_IMPACT:,}: use a smaller scale")
    return impact


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
    spool.encoder.observe(toks, f"document {docno!r}")
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
