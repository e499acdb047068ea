"""What Terrier can index without loss: the check of each document before it sees the engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from ._errors import DataError
from ._impacts import MAX_IMPACT
from ._vocabulary import MAX_TERM_BYTES, is_index_term

#: UTF-16 units that a docno may have. Ours: Terrier reserves three bytes for each of them, in every document.
MAX_DOCNO_LENGTH = 4096


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


def check_record(record: object, what: str) -> Mapping[str, Any]:
    """Return a record of a stream.

    Args:
        record: A document or a query.
        what: How a message calls it.

    Raises:
        DataError: It is no dict, as the columns of a DataFrame, over which a loop runs, are none.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{what} must be a dict, found {record!r:.60}; those of a DataFrame are frame.to_dict('records')")
    return record


def check_docno(document: Mapping[str, Any], position: int) -> str:
    """Return the docno of a document that Terrier gives back exactly.

    Args:
        document: The document.
        position: Its place in the input, counted from 1, by which a message can name it.

    Raises:
        DataError: The docno is missing, not a str, or one that Terrier would change.
    """
    if "docno" not in document:
        raise DataError(f"document {position} has no docno, only {', '.join(map(repr, document))}")
    docno = document["docno"]
    if not isinstance(docno, str):
        raise DataError(f"docno of document {position} must be a str, found {docno!r} ({type(docno).__name__})")
    # Terrier reads metadata back with Java's String.trim(), which takes control characters too, and drops a byte order mark.
    if docno and (docno[0] <= " " or docno[-1] <= " " or docno[0] == "\ufeff"):
        raise DataError(
            f"docno {docno!r} of document {position} starts or ends with what Terrier strips: remove that character"
        )
    length = text_length(docno, f"docno {docno!r} of document {position}")
    if length > MAX_DOCNO_LENGTH:
        raise DataError(
            f"docno {docno[:40]!r}... of document {position} has {length:,} characters: at most {MAX_DOCNO_LENGTH:,}"
        )
    return str(docno)  # a numpy.str_, which Java does not take, becomes a str


def check_field(document: Mapping[str, Any], name: str, docno: str) -> str:
    """Return a metadata field of a document.

    Raises:
        DataError: The field is missing or not a str.
    """
    value = document.get(name)
    if not isinstance(value, str):
        raise DataError(f"document {docno!r}: metadata field {name!r} must be a str, found {value!r}")
    return value


def text_length(text: str, what: str) -> int:
    """Return the length of a text in UTF-16 units, in which Terrier counts.

    Raises:
        DataError: UTF-8 cannot encode the text.
    """
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-16-le")) // 2
    except UnicodeEncodeError as error:
        raise DataError(f"{what} holds a lone surrogate, which UTF-8 cannot encode: remove it") from error


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
