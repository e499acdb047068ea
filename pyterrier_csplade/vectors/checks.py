"""Checks of what users give: records, docnos, texts, arguments, vectors, and the encoder that vectors come from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade._warnings import warn

from .contract import Contract

if TYPE_CHECKING:
    import pandas as pd
    import pyterrier as pt

#: UTF-16 units that a docno may have; our choice (not measured): Terrier reserves three bytes for each in every document.
MAX_DOCNO_LENGTH = 4096
# The heaviest weight of a query; our choice (not measured): scores then stay below the largest double, 2**1024.
_MAX_WEIGHT = 2.0**512
# Terrier's query language, as its rewriting writes it: "applypipeline:off term^0.2", "#combine:0=0.85(...)", "#1(two words)".
_CONTROLS = re.compile(r"\s*applypipeline:")
_OPERATORS = re.compile(
    r"(?<!\S)#(?:(?:combine|band|syn|prefix|fuzzy|tag|base64|dismax)(?::\S*?)?\(|(?:uw)?\d+(?::\S*?)?\(\S+\s+\S.*\))"
)
_WEIGHTED = re.compile(r"(?<!\S)[^\W\d_]\w+\^\d*\.\d+(?:[eE]-?\d+)?(?!\S)")


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
    if _is_stripped(docno):
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
    """Return a metadata field of a document if Terrier gives it back exactly.

    Raises:
        DataError: The field is missing, is not a str, or would be changed by Terrier.
    """
    value = document.get(name)
    if not isinstance(value, str):
        raise DataError(f"document {docno!r}: metadata field {name!r} must be a str, found {value!r}")
    if _is_stripped(value):
        raise DataError(
            f"document {docno!r}: metadata field {name!r} starts or ends with a character that Terrier strips, such as a space "
            f"or a line feed: remove it, for example with strip(); found {value[:20]!r}...{value[-20:]!r}"
        )
    return value


def _is_stripped(value: str) -> bool:
    """Return whether Terrier changes metadata: it strips as Java's String.trim() does, and drops a byte order mark."""
    return bool(value) and (value[0] <= " " or value[-1] <= " " or value[0] == "\ufeff")


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


def check_plain_queries(queries: Sequence[object], names: Sequence[str]) -> list[str]:
    """Return queries as ``check_texts`` does, after checking that none is written in Terrier's query language.

    Raises:
        DataError: ``check_texts`` raises it, or a query is output of a rewriting transformer such as RM3; names it.
    """
    checked = check_texts(queries, names)
    for query, name in zip(checked, names):
        if _is_query_language(query):
            raise DataError(
                f"{name}: {query[:60]!r} is Terrier's query language, as pt.rewrite writes it, and not text: put "
                "pt.rewrite.reset() before the encoder, which brings the text back"
            )
    return checked


def _is_query_language(query: str) -> bool:
    if _CONTROLS.match(query) or _OPERATORS.search(query):
        return True
    # Of a text, few words have a decimal weight, as in "O(n log^1.5 n)".
    return "^" in query and 2 * len(_WEIGHTED.findall(query)) >= len(query.split())


def check_field_name(name: object) -> None:
    """Refuse a name of a column that is neither a string nor None.

    Raises:
        ValueError: It is not, or it is empty.
    """
    if name is not None and not (isinstance(name, str) and name):
        raise ValueError(f"text_field must be the name of a column, found {name!r}")


def check_positive(**arguments: object) -> None:
    """Refuse arguments that are not whole numbers above 0.

    Raises:
        ValueError: An argument is not; the message names it.
    """
    for name, value in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}")


def check_top_k(top_k: Any) -> int | None:
    """Return a number of terms as a plain int; None, for all terms, stays.

    Raises:
        ValueError: It is not a whole number of at least 1.
    """
    if top_k is None:
        return None
    if not isinstance(top_k, Integral) or isinstance(top_k, bool) or top_k < 1:
        raise ValueError(f"top_k must be a whole number of at least 1, or None for all terms, found {top_k!r}")
    return int(top_k)


def check_min_weight(min_weight: Any) -> float:
    """Return the smallest weight that is kept as a plain float.

    Raises:
        ValueError: It is negative or not finite.
    """
    if not (isinstance(min_weight, Real) and 0 <= float(min_weight) < math.inf):
        raise ValueError(f"min_weight must be a number, finite and not negative, found {min_weight!r}")
    return float(min_weight)


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is not one of the choices or None.

    Raises:
        ContractError: It is neither; the message names the argument.
    """
    *first, last = map(repr, choices)
    if value is not None and repr(value) not in (*first, last):
        raise ContractError(f"{name} must be None, {', '.join(first)} or {last}, found {value!r}")


def check_matrix(matrix: csr_matrix, names: Sequence[str] | None = None) -> None:
    """Refuse a matrix that holds columns which it does not have, or rows that overlap; scipy checks neither.

    Args:
        matrix: Vectors [texts, terms].
        names: Name of each row in error messages; "row 0", "row 1" ... by default.

    Raises:
        DataError: An entry has no valid column; the message names its row.
    """
    starts, columns = matrix.indptr, matrix.indices
    if starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] > len(columns):
        raise DataError("the matrix is not valid: its row pointers (indptr) must ascend from 0 to the number of its entries")
    columns = columns[: starts[-1]]
    if len(columns) and not (columns.min() >= 0 and columns.max() < matrix.shape[1]):
        bad = int(np.flatnonzero((columns < 0) | (columns >= matrix.shape[1]))[0])
        row = int(np.searchsorted(starts, bad, side="right")) - 1
        raise DataError(
            f"{names[row] if names else f'row {row}'} has an entry in column {columns[bad]}: the matrix has columns 0 to "
            f"{matrix.shape[1] - 1}"
        )


def as_names(names: Iterable[str] | str | None) -> list[str] | None:
    """Return names of fields as a list; a single string is one name."""
    return None if names is None else [names] if isinstance(names, str) else list(names)


def check_columns(columns: Sequence[str], needed: Sequence[str], user: pt.Transformer, without: Sequence[str] = ()) -> None:
    """Refuse a frame that lacks columns that queries or results for a search with vectors have.

    Args:
        columns: The columns of the frame.
        needed: Those that it must have.
        user: The transformer, for the message.
        without: Columns that it must not have.

    Raises:
        InputValidationError: A column is missing, or there is one too many; states what to do.
    """
    import pyterrier as pt  # not above: a query table encodes without it

    try:
        pt.validate.columns(list(columns), includes=list(needed), excludes=list(without))
    except pt.validate.InputValidationError as error:
        hint = ""
        if set(without) & set(columns):
            hint = ": the frame holds documents; to score given documents, use scorer() in place of retriever()"
        elif "docno" in needed and "docno" not in columns:
            hint = ": the frame holds no documents; to find some, use retriever() in place of scorer()"
        elif "query_toks" not in columns:
            hint = ": the queries have no vectors; put csplade.query_encoder() before it"
        message = f"The input of {user!r} does not have the right columns{hint}."
        raise pt.validate.InputValidationError(message, error.modes) from None


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

    Terms whose weight is None are left out: a table of vectors, such as a Parquet file, gives every vector all terms.

    Raises:
        DataError: It is not a dict.
    """
    if isinstance(vector, Mapping):
        return present(vector)
    import pandas as pd

    if vector is None or vector is pd.NA or (isinstance(vector, float) and math.isnan(vector)):
        return {}
    raise DataError(f"{name} must be a dict of term to weight, found {vector!r:.60}")


def present(vector: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a vector without the terms whose weight is None."""
    if not any(weight is None for weight in vector.values()):
        return vector
    return {term: weight for term, weight in vector.items() if weight is not None}


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

    Texts and pictures can be together, if the pictures come from one image head that was trained for the model of the texts.

    Attributes:
        contract: The contract of the first encoder, or of the image head; None until it is known.
    """

    def __init__(
        self, contract: Contract | None = None, name: str = "", *, any_scale: bool = False, queries: bool = False
    ) -> None:
        """Start with the encoder of some vectors, or with none.

        Args:
            contract: Its contract.
            name: Name of these vectors in error messages; by default the name of the first vector observed.
            any_scale: Whether vectors may have another impact scale than the first.
            queries: Whether the vectors observed are of queries, which a query table may have made, and the first of documents.
        """
        self.contract = self._accepted = contract
        self._name = name
        self._any_scale = any_scale
        self._queries = queries

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
        if contract.queries_for and not self._queries:
            raise ContractError(f"{name} was made by {contract.summary}: it makes vectors of queries, not of documents")
        if self.contract is None:
            self.contract, self._name = contract, name
        elif not (contract.answers(self.contract) if self._queries else contract.joins(self.contract)):
            raise ContractError(
                f"{name} was encoded by {contract.summary}, {self._name} by {self.contract.summary}: encode both with one model"
            )
        elif contract.impact_scale != self.contract.impact_scale and not self._any_scale:
            raise ContractError(
                f"{name} has impacts of scale {contract.impact_scale:g}, {self._name} of {self.contract.impact_scale:g}: "
                "make all impacts of an index with one quantizer"
            )
        elif contract.documents_for:
            self.contract, self._name = contract, name  # from now on, another head is refused
        self._accepted = contract


def first_of_another_encoder(
    vectors: Sequence[object], contract: Callable[[], Contract], *, queries: bool = False
) -> int | None:
    """Return the position of the first vector that an encoder is not known to have made; None if it made all.

    Args:
        vectors: Vectors; those without an attribute ``contract`` are of unknown origin.
        contract: Returns the encoder's contract; called if any vector has one.
        queries: Whether the vectors are of queries: those of a query table for the encoder count as its own.
    """
    contracts = [getattr(vector, "contract", None) for vector in vectors]
    distinct = {id(found): found for found in contracts if found is not None}
    proved = {
        i
        for i, found in distinct.items()
        if (queries and found.queries_for and found.answers(contract()))
        or found.fingerprint == contract().fingerprint
        or found.made_for(contract())
    }
    return next((position for position, found in enumerate(contracts) if id(found) not in proved), None)


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
    encoder, scales = OneEncoder(indexed, f"the documents of {index}", any_scale=True, queries=True), {indexed.impact_scale}
    for qid, toks in zip(queries["qid"], queries["query_toks"]):
        encoder.observe(toks, f"query {qid!r}")
        contract = getattr(toks, "contract", None)
        if contract is not None and contract.impact_scale not in scales:
            scales.add(contract.impact_scale)
            warn(
                f"the impacts of {index} have scale {indexed.impact_scale:g}, the model of the queries has scale "
                f"{contract.impact_scale:g}: rankings are the same, but scores and sums of scores with other systems differ"
            )
