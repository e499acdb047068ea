"""Checks documents, and turns their weights into impacts that Terrier can index without loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.vectors.checks import check_docno, check_encoded, check_field, check_record, present
from pyterrier_csplade.vectors.impacts import MAX_IMPACT
from pyterrier_csplade.vectors.matrices import EncodedVectors, checked_pieces
from pyterrier_csplade.vectors.vocabulary import MAX_TERM_BYTES, is_index_term

from .spool import Spool

# Number of weights and documents that are checked together; our choice (not measured).
_BATCH = 2**16


def take_documents(documents: Iterable[Mapping[str, Any]], spool: Spool) -> None:
    """Check documents with ``docno``, ``toks`` and metadata fields, and put them into a spool.

    Raises:
        ContractError: Two documents come from different encoders.
        DataError: A document cannot be indexed exactly; the message names it.
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
    """Check encoded documents, and put them into a spool; duplicate entries are summed, as in scipy.

    ``fields`` are metadata fields and their values, one for each document.

    Raises:
        DataError: A document cannot be indexed exactly (the message names it), the number of documents or values is wrong, or a
            term appears twice in the vocabulary.
        OSError: The spool cannot be written.
    """
    check_encoded(encoded)
    spool.encoder.contract = encoded.contract
    vocabulary = list(encoded.vocabulary)
    numbers = np.full(len(vocabulary), -1, dtype=np.int32)
    values = {name: iter(texts) for name, texts in fields.items()}
    position = 0
    with pt.tqdm(total=len(encoded), desc="ImpactIndexer", unit="d", disable=not verbose) as bar:
        for docnos, matrix in checked_pieces(encoded):
            accepted = []
            for row, raw_docno in enumerate(docnos):
                position += 1
                document = {name: next(texts, None) for name, texts in values.items()}
                docno = check_docno({"docno": raw_docno}, position)
                if spool.accept(docno, position):
                    checked = {name: check_field(document, name, docno) for name in document}
                    spool.put_fields({"docno": docno, **checked}, docno)
                    accepted.append(row)
            if len(accepted) < len(docnos):
                matrix = matrix[accepted]
            kept = [docnos[row] for row in accepted]
            _number_columns(matrix, kept, vocabulary, numbers, spool)
            _put(kept, np.diff(matrix.indptr).astype(np.int64), numbers[matrix.indices], matrix.data, spool)
            bar.update(len(docnos))
    spool.flush()


def check_order(terms: Iterable[str]) -> None:
    """Refuse terms that hide each other in an index: Terrier sorts merged lexicons by UTF-16, but looks terms up by UTF-8.

    Raises:
        DataError: The two orders differ; the message names two terms.
    """
    by_utf8 = sorted(term for term in terms if max(term) >= "\ue000")  # the two orders agree on all others
    for one, other in zip(by_utf8, sorted(by_utf8, key=lambda term: term.encode("utf-16-be"))):
        if one != other:
            raise DataError(
                f"Terrier cannot find both {one!r} and {other!r} in one index, because UTF-8 and UTF-16 sort them differently: "
                "leave one out"
            )


def to_impacts(toks: object, docno: str) -> dict[str, int]:
    """Turn the ``toks`` of a document into impacts from 1 to 2**31 - 1, in the same order.

    Weights are rounded half up; weights that become 0 or less are left out.

    Raises:
        DataError: ``toks`` is not a dict, Terrier's lexicon cannot store a term, a weight is not a finite number, or an impact
            or the sum of the impacts is above 2**31 - 1.
    """
    impacts = {}
    for term, weight in _check_toks(toks, docno).items():
        if not (isinstance(term, str) and is_index_term(term)):
            raise _term_error(term, docno)
        impact = _round(weight, term, docno)
        if impact > 0:
            impacts[term] = impact
    # Terrier adds up the length of a document in a Java int.
    if sum(impacts.values()) > MAX_IMPACT:
        raise DataError(f"document {docno!r}: the impacts add up to more than {MAX_IMPACT:,}: use a smaller scale")
    return impacts


def to_impact_array(weights: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """Do the work of :func:`to_impacts` for many valid documents at once.

    Args:
        weights: The weights of all documents, one document after another.
        counts: Number of weights of each document.

    Returns:
        int64 array of the same length, with 0 where there is no impact; None if :func:`to_impacts` may refuse a document.
    """
    if weights.dtype.kind not in "iubf" or not np.isfinite(weights).all() or weights.max(initial=0) > MAX_IMPACT:
        return None
    rounded = np.floor(weights.astype(np.float64) + 0.5) if weights.dtype.kind == "f" else weights
    # Negative weights may be of any size: clip them before the cast.
    impacts = np.maximum(rounded, 0).astype(np.int64)
    return impacts if _sums(impacts, counts).max(initial=0) <= MAX_IMPACT else None


def _take(document: object, position: int, spool: Spool, batch: _Batch) -> None:
    record = check_record(document, f"document {position}")
    docno = check_docno(record, position)
    if not spool.accept(docno, position):
        return
    if "toks" not in record:
        raise DataError(f"document {docno!r} has no toks: put a document encoder before the index")
    toks = _check_toks(record["toks"], docno)
    spool.encoder.observe(record["toks"], f"document {docno!r}")
    spool.put_fields({name: check_field(record, name, docno) for name in spool.lengths}, docno)
    batch.add(docno, toks)


class _Batch:
    """Documents that are waiting to be checked together."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._clear()

    def _clear(self) -> None:
        self._docnos: list[str] = []
        self._counts: list[int] = []
        self._columns: list[int] = []
        self._weights: list[Any] = []

    def add(self, docno: str, toks: Mapping[str, Any]) -> None:
        try:
            self._columns.extend(map(self._spool.terms.__getitem__, toks))
        except KeyError as error:
            raise _term_error(error.args[0], docno) from None
        self._weights.extend(toks.values())
        self._docnos.append(docno)
        self._counts.append(len(toks))
        if len(self._weights) + len(self._docnos) >= _BATCH:
            self.put()

    def put(self) -> None:
        counts, columns = np.array(self._counts, dtype=np.int64), np.array(self._columns, dtype=np.int32)
        _put(self._docnos, counts, columns, self._weights, self._spool)
        self._clear()


def _number_columns(
    matrix: csr_matrix, docnos: Sequence[str], vocabulary: Sequence[str], numbers: np.ndarray, spool: Spool
) -> None:
    """Assign numbers of the spool's terms to the columns of a matrix that have none yet (-1)."""
    used = np.zeros(len(numbers), dtype=bool)
    used[matrix.indices] = True
    for column in np.flatnonzero(used & (numbers < 0)).tolist():
        try:
            numbers[column] = spool.terms[vocabulary[column]]
        except KeyError:
            place = np.flatnonzero(matrix.indices == column)[0]
            docno = docnos[int(np.searchsorted(matrix.indptr, place, side="right")) - 1]
            raise _term_error(vocabulary[column], docno) from None


def _put(docnos: Sequence[str], counts: np.ndarray, columns: np.ndarray, weights: Sequence[Any], spool: Spool) -> None:
    """Round the weights of documents, and put the positive impacts into a spool.

    ``counts`` (int64) is the number of weights of each document, and ``columns`` the number of each weight's term in the spool.
    """
    array = _as_array(weights)
    impacts = to_impact_array(array, counts)
    if impacts is None:
        terms, plain = list(spool.terms), weights.tolist() if isinstance(weights, np.ndarray) else weights
        impacts = _one_by_one(docnos, counts, [terms[column] for column in columns.tolist()], plain)
    if array.dtype.kind == "f":
        spool.fractional |= bool((array % 1).any())
    elif array.dtype.kind not in "iub":
        spool.fractional |= any(weight % 1 for weight in weights)
    positive = impacts > 0
    spool.put_impacts(_sums(positive, counts), columns[positive], impacts[positive])


def _as_array(weights: Sequence[Any]) -> np.ndarray:
    """Return an array of weights; an array of None if they are not plain numbers."""
    try:
        array = np.asarray(weights) if len(weights) else np.zeros(0, dtype=np.int64)
    except (ValueError, OverflowError, TypeError):  # lists of different lengths
        return np.array([None])
    return array if array.ndim == 1 else np.array([None])


def _one_by_one(docnos: Sequence[str], counts: np.ndarray, terms: Sequence[str], weights: Sequence[Any]) -> np.ndarray:
    """Round weights that numpy cannot round, or raise the error that names the first invalid one."""
    impacts, start = [], 0
    for docno, count in zip(docnos, counts.tolist()):
        document = dict(zip(terms[start : start + count], weights[start : start + count]))
        positive = to_impacts(document, docno)
        impacts += [positive.get(term, 0) for term in document]
        start += count
    return np.array(impacts, dtype=np.int64)


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the sum of each run of values; ``counts`` are the lengths of the runs."""
    before, ends = np.concatenate([[0], np.cumsum(values)]), np.cumsum(counts)
    sums: np.ndarray = before[ends] - before[ends - counts]
    return sums


def _check_toks(toks: object, docno: str) -> Mapping[str, Any]:
    if not isinstance(toks, Mapping):
        raise DataError(f"document {docno!r}: toks must be a dict of term to weight, found {type(toks).__name__}")
    return present(toks)


def _term_error(term: object, docno: str) -> DataError:
    return DataError(
        f"document {docno!r}: Terrier cannot index the term {term!r}: terms have 1 to {MAX_TERM_BYTES} bytes of UTF-8"
    )


def _round(weight: object, term: str, docno: str) -> int:
    if not isinstance(weight, Integral) and not (isinstance(weight, Real) and math.isfinite(weight)):
        raise DataError(f"document {docno!r}: the weight of {term!r} must be a finite number, found {weight!r}")
    impact = int(weight) if isinstance(weight, Integral) else math.floor(float(weight) + 0.5)
    if impact > MAX_IMPACT:
        raise DataError(f"document {docno!r}: the impact of {term!r} is {weight!r}, above {MAX_IMPACT:,}: use a smaller scale")
    return impact
