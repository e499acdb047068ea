"""Checks of what users give: records, docnos, texts, arguments, vectors, and the encoder that vectors come from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError, DataError

from .contract import Contract

#: UTF-16 units that a docno may have; our choice (not measured): Terrier reserves three bytes for each in every document.
MAX_DOCNO_LENGTH = 4096
# The heaviest weight of a query; our choice (not measured): scores then stay below the largest double, 2**1024.
_MAX_WEIGHT = 2.0**512


def check_record(record: object, what: str) -> Mapping[str, Any]:
    """Return a record of a stream.

    Args:
        record: A document or a query.
        what: Its name in error messages.

    Raises:
        DataError: It is not a dict; iterating over a DataFrame, for example, yields the names of its columns.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{what} must be a dict, found {record!r:.60}; convert a DataFrame with frame.to_dict('records')")
    return record


def check_docno(document: Mapping[str, Any], position: int) -> str:
    """Return the docno of a document if Terrier gives it back exactly.

    Args:
        document: The document.
        position: Its place in the input, counted from 1, for error messages.

    Raises:
        DataError: The docno is missing, is not a str, or would be changed by Terrier.
    """
    if "docno" not in document:
        raise DataError(f"document {position} has no docno, only {', '.join(map(repr, document))}")
    docno = document["docno"]
    if not isinstance(docno, str):
        raise DataError(f"docno of document {position} must be a str, found {docno!r} ({type(docno).__name__})")
    # Terrier reads metadata with Java's String.trim(), which also strips control characters, and drops a byte order mark.
    if docno and (docno[0] <= " " or docno[-1] <= " " or docno[0] == "\ufeff"):
        raise DataError(
            f"docno {docno!r} of document {position} starts or ends with a character that Terrier strips: remove it"
        )
    length = text_length(docno, f"docno {docno!r} of document {position}")
    if length > MAX_DOCNO_LENGTH:
        raise DataError(
            f"docno {docno[:40]!r}... of document {position} has {length:,} characters: at most {MAX_DOCNO_LENGTH:,}"
        )
    return str(docno)  # Java does not take a numpy.str_


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
    """Return the length of a text in UTF-16 units, which Terrier counts.

    Raises:
        DataError: UTF-8 cannot encode the text.
    """
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-16-le")) // 2
    except UnicodeEncodeError as error:
        raise DataError(f"{what} holds a lone surrogate, which UTF-8 cannot encode: remove it") from error


def check_texts(texts: Sequence[object], names: Iterable[object]) -> list[str]:
    """Return texts after checking that each is a string that UTF-8 can encode.

    Args:
        texts: The texts; they may be empty strings.
        names: Name of each text in error messages, for example ``document d7``; more names than texts are allowed.

    Raises:
        ValueError: There are fewer names than texts.
        DataError: A text is None, NaN, a number or bytes, or holds a lone surrogate; the message names it.
    """
    if isinstance(texts, (str, bytes)):
        raise DataError(f"expected a list of texts, found one text, {texts[:40]!r}: put it in a list")
    checked = []
    for text, name in zip(texts, names):
        if not isinstance(text, str):
            raise DataError(f"{name}: expected text, found {text!r} ({type(text).__name__}); fill or drop it first")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{name}: the text is not valid Unicode (a lone surrogate at character {error.start}); "
                "clean it with text.encode('utf-8', 'replace').decode()"
            ) from error
        checked.append(text)
    if len(checked) < len(texts):
        raise ValueError(f"{len(texts)} texts need {len(texts)} names, found {len(checked)}")
    return checked


def check_positive(**arguments: object) -> None:
    """Refuse arguments that are not whole numbers above 0.

    Raises:
        ValueError: An argument is not; the message names it.
    """
    for name, value in arguments.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}")


def check_cuts(top_k: int | None, min_weight: float) -> None:
    """Refuse limits on the terms of a vector that would leave no term or have no meaning.

    Raises:
        ValueError: ``top_k`` is below 1, or ``min_weight`` is negative or not finite.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for all terms, found {top_k}")
    if not 0 <= min_weight < math.inf:
        raise ValueError(f"min_weight must be finite and not negative, found {min_weight}")


def as_names(names: Iterable[str] | str | None) -> list[str] | None:
    """Return names of fields as a list; a single string is one name."""
    return None if names is None else [names] if isinstance(names, str) else list(names)


def text_qids(frame: pd.DataFrame) -> pd.Series:
    """Return the qids of a frame as text.

    Raises:
        DataError: A qid is missing; the message names its row.
    """
    missing = frame["qid"].isna().to_numpy()
    if missing.any():
        raise DataError(f"row {missing.argmax()} has no qid: give each query one")
    return frame["qid"].astype(str)


def query_ids(queries: pd.DataFrame) -> pd.Series:
    """Return the qids of queries as text.

    Raises:
        DataError: A qid is missing or appears twice.
    """
    qids = text_qids(queries)
    if len(set(qids)) < len(qids):
        raise DataError(f"qid {qids[qids.duplicated()].iloc[0]!r} appears twice: give each query its own qid")
    return qids


def check_encoded(encoded: object) -> None:
    """Refuse anything but a collection of encoded documents, such as a matrix alone.

    Raises:
        TypeError: It has no ``blocks``.
    """
    if not hasattr(encoded, "blocks"):
        raise TypeError(
            f"expected encoded documents, such as MatrixVectors(docnos, matrix, csplade.vocabulary, csplade.contract), found "
            f"{type(encoded).__name__}"
        )


def check_entries(matrix: csr_matrix, good: np.ndarray, names: Sequence[str] | None, advice: str) -> None:
    """Refuse a matrix with a weight that cannot be used.

    Args:
        matrix: Weights [texts, terms].
        good: bool array: whether each stored weight can be used.
        names: Name of each row in error messages; "row 0", "row 1" ... by default.
        advice: End of the message.

    Raises:
        DataError: A weight cannot be used; the message names its row.
    """
    bad = np.flatnonzero(~good)
    if len(bad):
        row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
        raise DataError(f"{names[row] if names else f'row {row}'} has the weight {matrix.data[bad[0]]}: {advice}")


def check_finite(matrix: csr_matrix, names: Sequence[str]) -> None:
    """Refuse weights of a model that are not finite.

    Raises:
        DataError: A weight is not finite; the message names its row.
    """
    advice = "load the model with another dtype, such as 'bfloat16' or 'float32'"
    check_entries(matrix, np.isfinite(matrix.data), names, advice)


def check_vector(vector: object, name: str) -> Mapping[str, Any]:
    """Return a vector; None and NaN, which mark a missing vector, become an empty one.

    Raises:
        DataError: It is not a dict.
    """
    if isinstance(vector, Mapping):
        return vector
    if vector is None or vector is pd.NA or (isinstance(vector, float) and math.isnan(vector)):
        return {}
    raise DataError(f"{name} must be a dict of term to weight, found {vector!r:.60}")


def check_finite_vector(vector: object, name: str) -> Mapping[str, Any]:
    """Return a vector as ``check_vector`` does.

    Raises:
        DataError: It is not a dict, or a weight is negative or not finite.
    """
    checked = check_vector(vector, name)
    for term, weight in checked.items():
        if not (isinstance(weight, Real) and 0 <= float(weight) < math.inf):
            raise DataError(f"{name}: the weight of {term!r} must be finite and at least 0, found {weight!r:.40}")
    return checked


def check_weights(toks: object, qid: str) -> dict[str, float]:
    """Return the positive weights of a query.

    Raises:
        DataError: A weight is negative, not finite or too large; the message names the query and the term.
    """
    checked = check_vector(toks, f"query {qid!r}: query_toks")
    for term, weight in checked.items():
        if type(term) is str and type(weight) is float and 0 <= weight <= _MAX_WEIGHT:
            continue  # a shortcut: isinstance with abstract types takes as long as searching a small collection
        if not isinstance(term, str):
            raise DataError(f"query {qid!r}: terms must be str, found {term!r}")
        # Compared as a Python number: numpy would round the limit to float32, which makes it infinity.
        value = int(weight) if isinstance(weight, Integral) else float(weight) if isinstance(weight, Real) else math.nan
        if not 0 <= value <= _MAX_WEIGHT:
            raise DataError(f"query {qid!r}: the weight of {term!r} must be a number from 0 to 1e154, found {weight!r}")
    return {term: float(weight) for term, weight in checked.items() if weight > 0}


class OneEncoder:
    """Refuses vectors of another encoder than the first; vectors of unknown origin pass.

    Attributes:
        contract: The contract of the first encoder; None until it is known.
    """

    def __init__(self, contract: Contract | None = None, name: str = "", *, any_scale: bool = False) -> None:
        """Start with the encoder of some vectors, or with none.

        Args:
            contract: Its contract.
            name: Name of these vectors in error messages; by default the name of the first vector observed.
            any_scale: Whether vectors may have another impact scale than the first.
        """
        self.contract = self._accepted = contract
        self._name = name
        self._any_scale = any_scale

    def observe(self, vector: object, name: str) -> None:
        """Check which encoder a vector comes from.

        Args:
            vector: The vector, or encoded documents; its attribute ``contract`` is missing or None if the encoder is unknown.
            name: Name of the vector in error messages.

        Raises:
            ContractError: The vector comes from another encoder, or has another impact scale; the message names both.
        """
        contract: Contract | None = getattr(vector, "contract", None)
        if contract is None or contract is self._accepted:
            return
        if self.contract is None:
            self.contract, self._name = contract, name
        elif not contract.matches(self.contract):
            raise ContractError(
                f"{name} was encoded by {contract.summary}, {self._name} by {self.contract.summary}: encode both with one model"
            )
        elif contract.impact_scale != self.contract.impact_scale and not self._any_scale:
            raise ContractError(
                f"{name} has impacts of scale {contract.impact_scale:g}, {self._name} of {self.contract.impact_scale:g}: "
                "make all impacts of an index with one quantizer"
            )
        self._accepted = contract


def check_contracts(queries: pd.DataFrame, indexed: Contract | None, index: str) -> None:
    """Refuse queries that another encoder than the documents' made; warn if the impact scale differs.

    Args:
        queries: Queries with ``qid`` and ``query_toks``.
        indexed: The contract of the documents; None if unknown.
        index: Name of the index in messages.

    Raises:
        ContractError: A query was encoded by another encoder; the message names both.
    """
    if indexed is None:
        return
    encoder, scales = OneEncoder(indexed, f"the documents of {index}", any_scale=True), {indexed.impact_scale}
    for qid, toks in zip(queries["qid"], queries["query_toks"]):
        encoder.observe(toks, f"query {qid!r}")
        contract = getattr(toks, "contract", None)
        if contract is not None and contract.impact_scale not in scales:
            scales.add(contract.impact_scale)
            warnings.warn(
                f"the impacts of {index} have scale {indexed.impact_scale:g}, the model of the queries has scale "
                f"{contract.impact_scale:g}: rankings are the same, but scores and sums of scores with other systems differ",
                stacklevel=2,
            )
