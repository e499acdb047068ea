"""Vectors that belong together come from one encoder, and are stored in one scale."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import pandas as pd

from pyterrier_csplade._errors import ContractError, DataError

from .contract import Contract

#: UTF-16 units that a docno may have. Ours: Terrier reserves three bytes for each of them, in every document.
MAX_DOCNO_LENGTH = 4096


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


class OneEncoder:
    """The encoder of the documents of an index, and what refuses another.

    Attributes:
        contract: Its contract; None while none is known.
    """

    def __init__(self) -> None:
        self.contract: Contract | None = None

    def observe(self, contract: Contract | None, what: str) -> None:
        """Take the contract of a vector's encoder; a vector of unknown origin passes.

        Args:
            contract: The contract.
            what: How a message calls the vector.

        Raises:
            ContractError: The vectors before come from another encoder, or have another impact scale; names both.
        """
        if contract is None or contract is self.contract:
            return
        if self.contract is None:
            self.contract = contract
        elif contract.fingerprint != self.contract.fingerprint:
            raise ContractError(
                f"{what} was encoded by {contract.summary}, the documents before it by {self.contract.summary}: "
                "an index holds the vectors of one encoder"
            )
        elif contract.impact_scale != self.contract.impact_scale:
            raise ContractError(
                f"{what} has impacts of scale {contract.impact_scale:g}, the documents before it of "
                f"{self.contract.impact_scale:g}: let one quantizer make all impacts of an index"
            )


# The heaviest weight that a query may have (ours): scores then stay below the largest double, 2**1024.
_MAX_WEIGHT = 2.0**512


def check_positive(**arguments: object) -> None:
    """Refuse arguments that are no whole numbers above 0.

    Raises:
        ValueError: One is none; names it.
    """
    for name, value in arguments.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}")


def as_names(names: Iterable[str] | str | None) -> list[str] | None:
    """Return names of fields as a list; a name alone is one, not its letters."""
    return None if names is None else [names] if isinstance(names, str) else list(names)


def text_qids(frame: pd.DataFrame) -> pd.Series:
    """Return the qids of a frame as text.

    Raises:
        DataError: One is missing; names its row.
    """
    missing = frame["qid"].isna().to_numpy()
    if missing.any():
        raise DataError(f"row {missing.argmax()} has no qid: give each query one")
    return frame["qid"].astype(str)


def query_ids(queries: pd.DataFrame) -> pd.Series:
    """Return the qids of queries as text.

    Raises:
        DataError: One is missing or stands twice.
    """
    qids = text_qids(queries)
    if len(set(qids)) < len(qids):
        raise DataError(f"qid {qids[qids.duplicated()].iloc[0]!r} stands twice: a qid names one query")
    return qids


def check_contracts(queries: pd.DataFrame, indexed: Contract | None, index: str) -> None:
    """Refuse queries of another encoder than that of the documents; warn of another impact scale.

    Args:
        queries: Queries with ``qid`` and ``query_toks``.
        indexed: The contract of the documents; None if unknown.
        index: The index, for messages.

    Raises:
        ContractError: There is one; names both encoders.
    """
    accepted: Contract | None = None
    for qid, toks in zip(queries["qid"], queries["query_toks"]):
        contract = getattr(toks, "contract", None)
        if indexed is None or contract is None or contract is accepted:
            continue
        if contract.fingerprint != indexed.fingerprint:
            raise ContractError(
                f"query {qid!r} was encoded by {contract.summary}, the documents of {index} by {indexed.summary}: "
                "encode both with one model"
            )
        if contract.impact_scale != indexed.impact_scale:
            warnings.warn(
                f"the impacts of {index} have scale {indexed.impact_scale:g}, the model of the queries has "
                f"{contract.impact_scale:g}: rankings are the same, but scores are not, nor sums with those of other systems",
                stacklevel=2,
            )
        accepted = contract


def check_weights(toks: object, qid: str) -> dict[str, float]:
    """Return the positive weights of a query.

    Raises:
        DataError: A weight is negative, not finite or too large; names the query and the term.
    """
    if not isinstance(toks, Mapping):
        if toks is None or toks is pd.NA or (isinstance(toks, float) and math.isnan(toks)):
            return {}
        raise DataError(f"query {qid!r}: query_toks must be a dict of term to weight, found {toks!r}")
    for term, weight in toks.items():
        if type(term) is str and type(weight) is float and 0 <= weight <= _MAX_WEIGHT:
            continue  # at once, for checks of abstract types take as long as the search of a small collection
        if not isinstance(term, str):
            raise DataError(f"query {qid!r}: terms must be str, found {term!r}")
        # Compared as a Python number: a float32 of numpy would turn the limit into infinity.
        value = int(weight) if isinstance(weight, Integral) else float(weight) if isinstance(weight, Real) else math.nan
        if not 0 <= value <= _MAX_WEIGHT:
            raise DataError(f"query {qid!r}: the weight of {term!r} must be a number from 0 to 1e154, found {weight!r}")
    return {term: float(weight) for term, weight in toks.items() if weight > 0}


class _SameEncoder:
    """Refuses vectors of another encoder than the first; those of unknown origin pass."""

    def __init__(self) -> None:
        self._first: tuple[Contract, str] | None = None
        self._last: Contract | None = None

    def __call__(self, vector: object, name: str) -> None:
        contract = getattr(vector, "contract", None)
        if contract is None or contract is self._last:
            return
        if self._first is None:
            self._first = contract, name
        elif contract.fingerprint != self._first[0].fingerprint:
            raise ContractError(
                f"{name} was encoded by {contract.summary}, {self._first[1]} by {self._first[0].summary}: "
                "encode both with one model"
            )
        self._last = contract


def check_texts(texts: Sequence[object], names: Iterable[object]) -> list[str]:
    """Return the texts, each proved to be a string that UTF-8 can encode.

    Args:
        texts: What should be strings; the empty string is one.
        names: How an error calls each text, for example ``document d7``; at least as many as texts.

    Raises:
        ValueError: There are fewer names than texts.
        DataError: A text is None, NaN, a number, bytes, or holds a lone surrogate; the message names it.
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
                f"{name}: the text is no valid Unicode (a lone surrogate at character {error.start}); "
                "clean it with text.encode('utf-8', 'replace').decode()"
            ) from error
        checked.append(text)
    if len(checked) < len(texts):
        raise ValueError(f"{len(texts)} texts need as many names, found {len(checked)}")
    return checked
