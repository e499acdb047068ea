"""Documents as sent to OpenSearch: checked, quantised, one line of JSON each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.storage.docnos import Docnos
from pyterrier_csplade.vectors.checks import OneEncoder, check_record
from pyterrier_csplade.vectors.matrices import EncodedVectors, checked_pieces

from .mapping import DOCNO, IMPACTS, Fields, TermNames

# Maximum length of an id in OpenSearch.
_MAX_DOCNO_BYTES = 512

# All whole numbers up to this impact are stored exactly. Lucene's FeatureField keeps 9 significant bits of a float, and would
# silently store 513 as 512.
_MAX_IMPACT = 512


class Record(NamedTuple):
    """A document to send: the docno under which it is stored, and the action and the document as NDJSON."""

    docno: str
    lines: bytes


class Records:
    """Turns documents into records, and counts them.

    Attributes:
        loss: What rounding has changed.
        empty: Number of documents without any impact.
        docnos: Docnos of the documents.
        encoder: Encoder of the documents.
    """

    def __init__(self, names: TermNames, fields: Fields, scale: float) -> None:
        self.loss = Loss()
        self.empty = 0
        self.docnos = Docnos()
        self.encoder = OneEncoder()
        self._names = names
        self._fields = fields
        self._scale = scale

    def of_document(self, document: Mapping[str, Any], position: int) -> Record:
        """Return the record of a document with ``docno``, ``toks`` and the fields; ``position`` counts from 1.

        Raises:
            ContractError: It comes from another encoder than an earlier document.
            DataError: It cannot be indexed exactly, or its docno appears twice.
        """
        document = check_record(document, f"document {position}")
        docno = _check_docno(document.get(DOCNO), position)
        toks = document.get("toks")
        if not isinstance(toks, Mapping):
            raise DataError(f"document {docno!r}: toks must be a dict of term to weight, found {type(toks).__name__}")
        self.encoder.observe(toks, f"document {docno!r}")
        weights = _to_array(toks, docno)
        return self._record(docno, self._impacts(list(toks), weights, docno), document)

    def of_vectors(self, vectors: EncodedVectors, documents: Iterator[Mapping[str, Any]] | None) -> Iterator[Record]:
        """Yield the records of encoded documents; ``documents``, in the same order, have their fields, if there are any.

        Raises:
            ContractError: The vectors come from another encoder than earlier documents.
            DataError: A document cannot be indexed exactly, its docno appears twice, or the documents do not match the vectors.
        """
        self.encoder.observe(vectors, "a collection")
        terms = vectors.vocabulary
        position = 0
        for docnos, matrix in checked_pieces(vectors):
            for row, docno in enumerate(docnos):
                position += 1
                docno = _check_docno(docno, position)
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
        impacts = self.loss.round(weights, self._scale)
        if len(impacts) and impacts[largest := int(impacts.argmax())] > _MAX_IMPACT:
            raise DataError(
                f"document {docno!r}: the impact of {terms[largest]!r} is {impacts[largest]:g}, above {_MAX_IMPACT}, which "
                f"OpenSearch would silently round: make impacts smaller with toks_indexer(scale=...), here at most "
                f"{_three_digits(_MAX_IMPACT / float(weights[largest])):g}"
            )
        named = {}
        for term, impact in zip(terms, impacts.astype(np.int64).tolist()):
            name = self._names(term) if isinstance(term, str) else None
            if name is None:
                raise DataError(f"document {docno!r}: OpenSearch cannot index the term {term!r} {self._names.requirement}")
            if impact > 0:
                named[name] = impact
        return named

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
            # json writes a lone surrogate as an escape, which the server would accept and return as "?".
            if "\\ud" in lines:
                json.dumps(source, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"document {docno!r} has a field with a lone surrogate, which UTF-8 cannot encode") from error
        except (TypeError, ValueError) as error:
            raise DataError(f"document {docno!r} has a field that JSON cannot represent: {error}") from error
        self.docnos.add([docno])
        return Record(docno, lines.encode("ascii"))


@dataclass
class Loss:
    """What rounding has changed.

    Attributes:
        postings: Number of impacts that were kept.
        dropped: Number of weights above 0 that became 0.
        total: Sum of the scaled weights above 0.
        changed: Sum of the absolute differences between scaled weights and impacts.
    """

    postings: int = 0
    dropped: int = 0
    total: float = 0.0
    changed: float = 0.0

    @property
    def share(self) -> float:
        """The changed part of the sum of all weights, from 0 to 1."""
        return self.changed / self.total if self.total else 0.0

    def round(self, weights: np.ndarray, scale: float) -> np.ndarray:
        """Return the impacts of finite weights, float64: ``floor(weight * scale + 0.5)``; only those above 0 are postings."""
        scaled = weights.astype(np.float64) * scale
        impacts = np.floor(scaled + 0.5)
        positive = scaled > 0
        self.postings += int((impacts > 0).sum())
        self.dropped += int((positive & (impacts <= 0)).sum())
        self.total += float(scaled[positive].sum())
        self.changed += float(np.abs(scaled - np.maximum(impacts, 0))[positive].sum())
        return impacts


def _check_docno(docno: Any, position: int) -> str:
    """Return a docno that OpenSearch accepts as an id and returns exactly."""
    if not isinstance(docno, str):
        raise DataError(f"docno of document {position} must be a str, found {docno!r}")
    try:
        length = len(docno.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise DataError(f"docno {docno!r} of document {position} contains a lone surrogate: remove it") from error
    if not 0 < length <= _MAX_DOCNO_BYTES:
        raise DataError(
            f"docno {docno[:40]!r} of document {position} has {length:,} bytes: OpenSearch needs 1 to {_MAX_DOCNO_BYTES}"
        )
    return docno


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
        raise DataError(f"document {position} is {found!r}, but its vector is {docno!r}: both must be in the same order")
    return document


def _three_digits(number: float) -> float:
    """Round down to three digits, so that the scale that a message suggests is small enough."""
    return float(Context(prec=3, rounding=ROUND_DOWN).create_decimal_from_float(number))
