"""Documents as OpenSearch gets them: checked, quantised, one line of JSON each."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context
from numbers import Real
from typing import Any

import numpy as np

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.vectors.checks import OneEncoder, check_record
from pyterrier_csplade.vectors.matrices import EncodedVectors, checked_pieces

from .mapping import DOCNO, IMPACTS, Fields, TermNames

# OpenSearch refuses longer ids.
_MAX_DOCNO_BYTES = 512


@dataclass(frozen=True)
class Record:
    """A document to send.

    Attributes:
        docno: Its docno, under which it is put.
        lines: The action and the document, NDJSON.
    """

    docno: str
    lines: bytes


class Records:
    """Turns documents into records, and counts.

    Attributes:
        loss: What rounding has changed.
        empty: Documents without any impact.
        encoder: Of the documents.
    """

    def __init__(self, names: TermNames, fields: Fields, scale: float) -> None:
        self.loss = Loss()
        self.empty = 0
        self.encoder = OneEncoder()
        self._names = names
        self._fields = fields
        self._scale = scale

    def of_document(self, document: Mapping[str, Any], position: int) -> Record:
        """Return the record of a document with ``docno``, ``toks`` and the fields.

        Args:
            document: The document.
            position: Its place in the input, counted from 1, for messages.

        Raises:
            ContractError: It comes from another encoder than those before it.
            DataError: It cannot be indexed exactly.
        """
        document = check_record(document, f"document {position}")
        docno = check_docno(document.get(DOCNO), position)
        toks = document.get("toks")
        if not isinstance(toks, Mapping):
            raise DataError(f"document {docno!r}: toks must be a dict of term to weight, found {type(toks).__name__}")
        self.encoder.observe(toks, f"document {docno!r}")
        weights = _to_array(toks, docno)
        return self._record(docno, self._impacts(list(toks), weights, docno), document)

    def of_vectors(self, vectors: EncodedVectors, documents: Iterator[Mapping[str, Any]] | None) -> Iterator[Record]:
        """Yield the records of encoded documents.

        Args:
            vectors: Docnos and vectors.
            documents: The documents in the same order, for their fields; None if there are no fields.

        Raises:
            ContractError: They come from another encoder than those before them.
            DataError: One cannot be indexed exactly, or the documents are others than the vectors.
        """
        self.encoder.observe(vectors, "a collection")
        terms = vectors.vocabulary
        position = 0
        for docnos, matrix in checked_pieces(vectors):
            for row, docno in enumerate(docnos):
                position += 1
                docno = check_docno(docno, position)
                document = {} if documents is None else _same_document(next(documents, None), docno, position)
                part = slice(matrix.indptr[row], matrix.indptr[row + 1])
                weights = matrix.data[part]
                if not np.isfinite(weights).all():
                    raise DataError(f"document {docno!r} has a weight that is not finite")
                columns = matrix.indices[part].tolist()
                yield self._record(docno, self._impacts([terms[column] for column in columns], weights, docno), document)
        if documents is not None and (left := next(documents, None)) is not None:
            raise DataError(f"document {left.get(DOCNO)!r} comes after the last of the {position:,} vectors")

    def _impacts(self, terms: Sequence[Any], weights: np.ndarray, docno: str) -> dict[str, int]:
        scaled, impacts = quantize(weights, self._scale)
        if len(impacts) and impacts[largest := int(impacts.argmax())] > MAX_IMPACT:
            raise DataError(
                f"document {docno!r}: the impact of {terms[largest]!r} is {impacts[largest]:g}, above {MAX_IMPACT}, which "
                f"OpenSearch would silently round: toks_indexer(scale=...) makes impacts smaller, here at most "
                f"{_three_digits(MAX_IMPACT / float(weights[largest])):g}"
            )
        self.loss.add(scaled, impacts)
        named = {}
        for term, impact in zip(terms, impacts.astype(np.int64).tolist()):
            name = self._names(term) if isinstance(term, str) else None
            if name is None:
                raise DataError(f"document {docno!r}: OpenSearch cannot index the term {term!r} {self._why()}")
            if impact > 0:
                named[name] = impact
        return named

    def _why(self) -> str:
        scheme = self._names.scheme["terms"]
        return "which is not in the vocabulary" if scheme == "token ids" else "(a str of up to 32,766 bytes of valid UTF-8)"

    def _record(self, docno: str, impacts: dict[str, int], document: Mapping[str, Any]) -> Record:
        source: dict[str, Any] = {DOCNO: docno}
        for name in self._fields.names:
            if name not in document:
                raise DataError(f"document {docno!r} has no field {name!r}")
            source[name] = document[name]
        if impacts:
            source[IMPACTS] = impacts
        else:
            self.empty += 1
        try:
            lines = json.dumps({"index": {"_id": docno}}) + "\n" + json.dumps(source, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise DataError(f"document {docno!r} has a field that JSON cannot hold: {error}") from error
        # json spells a lone surrogate as an escape, which the server would take and give back as "?".
        if "\\ud" in lines:
            _check_unicode(source, docno)
        return Record(docno, lines.encode("ascii"))


def check_docno(docno: Any, position: int) -> str:
    """Return a docno that OpenSearch takes for an id and gives back exactly.

    Raises:
        DataError: It does not.
    """
    if not isinstance(docno, str):
        raise DataError(f"docno of document {position} must be a str, found {docno!r}")
    try:
        length = len(docno.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise DataError(f"docno {docno!r} of document {position} holds a lone surrogate: remove it") from error
    if not 0 < length <= _MAX_DOCNO_BYTES:
        raise DataError(
            f"docno {docno[:40]!r} of document {position} has {length:,} bytes: OpenSearch needs 1 to {_MAX_DOCNO_BYTES}"
        )
    return docno


def _three_digits(number: float) -> float:
    """Round down to three digits: a scale that is advised must suffice."""
    return float(Context(prec=3, rounding=ROUND_DOWN).create_decimal_from_float(number))


def _to_array(toks: Mapping[str, Any], docno: str) -> np.ndarray:
    weights = np.empty(len(toks))
    for place, (term, weight) in enumerate(toks.items()):
        try:
            weights[place] = weight if isinstance(weight, Real) else math.nan
        except OverflowError:
            weights[place] = math.inf
        if not math.isfinite(weights[place]):
            raise DataError(f"document {docno!r}: the weight of {term!r} must be a finite number, found {weight!r}")
    return weights


def _same_document(document: Mapping[str, Any] | None, docno: str, position: int) -> Mapping[str, Any]:
    found = None if document is None else document.get(DOCNO)
    if document is None or found != docno:
        raise DataError(f"document {position} is {found!r}, its vector {docno!r}: both must come in the same order")
    return document


def _check_unicode(source: Mapping[str, Any], docno: str) -> None:
    try:
        json.dumps(source, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"document {docno!r} has a field with a lone surrogate, which UTF-8 cannot encode") from error


#: The largest impact up to which all whole numbers are stored exactly: Lucene's FeatureField keeps 9 significant bits of a
#: float, and would silently make 512 of 513.
MAX_IMPACT = 512


@dataclass
class Loss:
    """What rounding has changed.

    Attributes:
        postings: Impacts that were kept.
        dropped: Weights above 0 that became 0.
        total: Sum of the scaled weights above 0.
        changed: Sum of the absolute differences to the impacts.
    """

    postings: int = 0
    dropped: int = 0
    total: float = 0.0
    changed: float = 0.0

    @property
    def share(self) -> float:
        """The changed part of the sum of all weights, from 0 to 1."""
        return self.changed / self.total if self.total else 0.0

    def add(self, scaled: np.ndarray, impacts: np.ndarray) -> None:
        """Count weights, and what became of them."""
        positive = scaled > 0
        self.postings += int((impacts > 0).sum())
        self.dropped += int((positive & (impacts <= 0)).sum())
        self.total += float(scaled[positive].sum())
        self.changed += float(np.abs(scaled - np.maximum(impacts, 0))[positive].sum())


def quantize(weights: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn finite weights into impacts: ``floor(weight * scale + 0.5)``.

    Returns:
        The scaled weights, float64, and the impacts, float64; those up to 0 are no postings, those above ``MAX_IMPACT`` must
        be refused.
    """
    scaled = weights.astype(np.float64) * scale
    return scaled, np.floor(scaled + 0.5)


# Docnos that wait in a set until they are merged into the array (ours): a set takes ten times the memory.
_WAITING = 2**16


class Docnos:
    """A growing set of docnos in 16 bytes each, a 128-bit digest; equal digests are taken for equal docnos."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, dtype="S16")
        self._waiting: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._waiting)

    def add(self, docno: str) -> bool:
        """Add a docno; return whether it is new."""
        digest = hashlib.blake2b(docno.encode(), digest_size=16).digest()
        place = int(np.searchsorted(self._sorted, np.bytes_(digest)))
        # numpy cuts zeros off the end of what it returns.
        if digest in self._waiting or (place < len(self._sorted) and bytes(self._sorted[place]).ljust(16, b"\0") == digest):
            return False
        self._waiting.add(digest)
        if len(self._waiting) == _WAITING:
            waiting = np.sort(np.array(list(self._waiting), dtype="S16"))
            self._sorted = np.sort(np.concatenate([self._sorted, waiting]), kind="stable")  # merges what is sorted
            self._waiting.clear()
        return True
