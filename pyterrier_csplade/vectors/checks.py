"""Checks of user input: records, docnos, texts, arguments and vectors, and which encoder made the vectors."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade._warnings import warn

from .contract import Contract

if TYPE_CHECKING:
    import pandas as pd
    import pyterrier as pt

#: Maximum length of a docno in UTF-16 units, for each of which Terrier reserves three bytes in every document; our choice (not
#: measured).
MAX_DOCNO_LENGTH = 4096
# The largest weight of a query, with which scores stay below the largest double, 2**1024; our choice (not measured).
_MAX_WEIGHT = 2.0**512
# Terrier's query language as query rewriters write it: "applypipeline:off term^0.2", "#combine:0=0.85(...)", "#1(two words)".
_CONTROLS = re.compile(r"\s*applypipeline:")
_OPERATORS = re.compile(
    r"(?<!\S)#(?:(?:combine|band|syn|prefix|fuzzy|tag|base64|dismax)(?::\S*?)?\(|(?:uw)?\d+(?::\S*?)?\(\S+\s+\S.*\))"
)
_WEIGHTED = re.compile(r"(?<!\S)[^\W\d_]\w+\^\d*\.\d+(?:[eE]-?\d+)?(?!\S)")


def check_record(record: object, what: str) -> Mapping[str, Any]:
    """Return a record of a stream; ``what`` names it in the error.

    Raises:
        DataError: The record is not a dict; iterating over a DataFrame, for example, yields the names of its columns.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{what} must be a dict, found {record!r:.60}; convert a DataFrame with frame.to_dict('records')")
    return record


def check_docno(document: Mapping[str, Any], position: int) -> str:
    """Return the docno of a document if Terrier returns it unchanged; ``position`` counts from 1 and is used in messages.

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
    """Return a metadata field of a document if Terrier returns it unchanged.

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
    """Return whether Terrier changes a value: it strips as Java's String.trim() does, and drops a byte order mark."""
    return bool(value) and (value[0] <= " " or value[-1] <= " " or value[0] == "\ufeff")


def text_length(text: str, what: str) -> int:
    """Return the length of a text in UTF-16 units, in which Terrier measures lengths.

    Raises:
        DataError: UTF-8 cannot encode the text.
    """
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-16-le")) // 2
    except UnicodeEncodeError as error:
        raise DataError(f"{what} contains a lone surrogate, which UTF-8 cannot encode: remove it") from error


def check_texts(texts: Sequence[object], names: Iterable[object]) -> list[str]:
    """Return texts after checking that each is a string that UTF-8 can encode.

    Args:
        texts: The texts; they may be empty strings.
        names: Name of each text in error messages, for example ``document d7``; surplus names are ignored.

    Raises:
        ValueError: There are fewer names than texts.
        DataError: A text is None, NaN, a number or bytes, or contains a lone surrogate; the message names it.
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
    """Return queries as ``check_texts`` does, and refuse queries in Terrier's query language.

    Raises:
        DataError: ``check_texts`` raises it, or a query is the output of a rewriting transformer such as RM3.
    """
    checked = check_texts(queries, names)
    for query, name in zip(checked, names):
        if _is_query_language(query):
            raise DataError(
                f"{name}: {query[:60]!r} is in Terrier's query language, which pt.rewrite writes, and not text: put "
                "pt.rewrite.reset() before the encoder to restore the text"
            )
    return checked


def _is_query_language(query: str) -> bool:
    if _CONTROLS.match(query) or _OPERATORS.search(query):
        return True
    # In a text, few words have a decimal weight, as in "O(n log^1.5 n)".
    return "^" in query and 2 * len(_WEIGHTED.findall(query)) >= len(query.split())


def check_field_name(name: object) -> None:
    """Raise ValueError if the name of a text column is neither None nor a non-empty string."""
    if name is not None and not (isinstance(name, str) and name):
        raise ValueError(f"text_field must be the name of a column, found {name!r}")


def check_positive(**arguments: object) -> None:
    """Raise ValueError, naming the argument, if an argument is not a whole number of at least 1."""
    for name, value in arguments.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}")


def positive(name: str) -> Callable[[Any], int]:
    """Return a check of the argument ``name``, which returns a whole number of at least 1 as a plain int."""

    def check(value: Any) -> int:
        check_positive(**{name: value})
        return int(value)

    return check


def check_top_k(top_k: Any, name: str = "top_k") -> int | None:
    """Return a number of terms as a plain int, or None for all terms; ``name`` is the argument.

    Raises:
        ValueError: It is not a whole number of at least 1.
    """
    if top_k is None:
        return None
    if not isinstance(top_k, Integral) or isinstance(top_k, bool) or top_k < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, or None for all terms, found {top_k!r}")
    return int(top_k)


def check_min_weight(min_weight: Any) -> float:
    """Return a minimum weight as a plain float.

    Raises:
        ValueError: It is negative or not finite.
    """
    if not (isinstance(min_weight, Real) and 0 <= float(min_weight) < math.inf):
        raise ValueError(f"min_weight must be a number, finite and not negative, found {min_weight!r}")
    return float(min_weight)


def check_revision(model: str, revision: str | None) -> None:
    """Refuse a revision of a model that is not on the hub.

    Args:
        model: Hub id, directory or file.
        revision: The revision; None is always accepted.

    Raises:
        ContractError: There is a revision, and ``model`` is a directory or a file.
    """
    if revision is not None and Path(model).exists():
        kind = "directory" if Path(model).is_dir() else "file"
        raise ContractError(
            f"revision={revision!r} names a version of a hub model, but {model} is a {kind}: leave revision out. To load an "
            "earlier version of a model or an adapter, name the directory that contains it"
        )


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ContractError, naming the argument, if a value is neither None nor one of the choices."""
    *first, last = map(repr, choices)
    if value is not None and repr(value) not in (*first, last):
        raise ContractError(f"{name} must be {', '.join(['None', *first])} or {last}, found {value!r}")


def check_one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError if a value is not one of the choices."""
    choices = tuple(choices)
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {value!r:.80}")


def check_share(*, above_zero: bool = False, **arguments: object) -> None:
    """Raise ValueError if an argument is not a number from 0 to 1; ``above_zero`` also refuses 0."""
    for name, value in arguments.items():
        if not (isinstance(value, Real) and 0 <= float(value) <= 1) or (above_zero and not value):
            least = "above 0 and at most 1" if above_zero else "from 0 to 1"
            raise ValueError(f"{name} must be a number {least}, found {value!r:.80}")


def share(name: str, *, above_zero: bool = False) -> Callable[[Any], float]:
    """Return a check of the argument ``name``, which returns a number from 0 to 1 as a plain float."""

    def check(value: Any) -> float:
        check_share(above_zero=above_zero, **{name: value})
        return float(value)

    return check


def check_matrix(matrix: csr_matrix, names: Sequence[str] | None = None) -> None:
    """Refuse a matrix [texts, terms] with columns out of range or overlapping rows; scipy checks neither.

    Args:
        matrix: The vectors.
        names: Name of each row in error messages; "row 0", "row 1" ... by default.

    Raises:
        DataError: The row pointers are not valid, or a column is out of range; the message names its row.
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


def as_names(names: Any, argument: str = "include_fields") -> list[str] | None:
    """Return field names as a list; a single string is one name, and None stays None.

    Raises:
        ValueError: A name is not a string; the message begins with ``argument``.
    """
    if names is None or isinstance(names, str):
        return None if names is None else [names]
    listed = list(names) if isinstance(names, Iterable) else [names]
    for name in listed:
        if not isinstance(name, str):
            raise ValueError(f"{argument} must be the names of fields, found {name!r:.60}")
    return listed


def check_names(columns: Iterable[Any]) -> None:
    """Refuse a frame in which two columns have one name, because it is not clear which one to read.

    Raises:
        DataError: Two columns have one name.
    """
    seen: set[Any] = set()
    for column in columns:
        if column in seen:
            raise DataError(f"the frame has two columns {column!r}: remove or rename one")
        seen.add(column)


def check_columns(columns: Sequence[str], needed: Sequence[str], user: pt.Transformer, without: Sequence[str] = ()) -> None:
    """Refuse a frame whose columns do not fit a search with vectors: it lacks a needed one, or has one of ``without``.

    ``user`` is the transformer, for the message.

    Raises:
        DataError: Two columns have one name.
        InputValidationError: The columns do not fit; the message says what to do.
    """
    check_names(columns)
    import pyterrier as pt  # not above: a query table encodes without it

    try:
        pt.validate.columns(list(columns), includes=list(needed), excludes=list(without))
    except pt.validate.InputValidationError as error:
        hint = ""
        if set(without) & set(columns):
            hint = ": the frame contains documents; to score them, use scorer() in place of retriever()"
        elif "docno" in needed and "docno" not in columns:
            hint = ": the frame contains no documents; to retrieve documents, use retriever() in place of scorer()"
        elif "query_toks" not in columns:
            hint = ": the queries have no vectors; put csplade.query_encoder() before this transformer"
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
    """Raise TypeError for an object that is not a collection of encoded documents, such as a matrix alone."""
    if not hasattr(encoded, "blocks"):
        raise TypeError(
            f"expected encoded documents, such as MatrixVectors(docnos, matrix, csplade.vocabulary, csplade.contract), found "
            f"{type(encoded).__name__}"
        )


def check_entries(matrix: csr_matrix, good: np.ndarray, names: Sequence[str] | None, advice: str) -> None:
    """Raise DataError, naming the row, if a weight of a matrix [texts, terms] is not ``good``; ``advice`` ends the message.

    Without ``names``, rows are called "row 0", "row 1" ...
    """
    bad = np.flatnonzero(~good)
    if len(bad):
        row = int(np.searchsorted(matrix.indptr, bad[0], side="right")) - 1
        raise DataError(f"{names[row] if names else f'row {row}'} has the weight {matrix.data[bad[0]]}: {advice}")


def check_finite(matrix: csr_matrix, names: Sequence[str]) -> None:
    """Raise DataError, naming the row, if a model has produced a weight that is not finite."""
    advice = "load the model with another dtype, such as 'bfloat16' or 'float32'"
    check_entries(matrix, np.isfinite(matrix.data), names, advice)


def check_vector(vector: object, name: str) -> Mapping[str, Any]:
    """Return a vector; None and NaN, which mark a missing vector, become an empty one.

    Terms whose weight is None are left out: a table of vectors, such as a Parquet file, gives every vector all terms.

    Raises:
        DataError: The vector is not a dict.
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
        DataError: The vector is not a dict, or a weight is negative or not finite.
    """
    checked = check_vector(vector, name)
    for term, weight in checked.items():
        try:
            valid = isinstance(weight, Real) and 0 <= float(weight) < math.inf
        except OverflowError:  # an integer beyond the largest float
            valid = False
        if not valid:
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
            continue  # a shortcut: isinstance with abstract types would take as long as searching a small collection
        if not isinstance(term, str):
            raise DataError(f"query {qid!r}: terms must be str, found {term!r}")
        # Compared as a Python number: numpy would round the limit to float32, in which it is infinite.
        value = int(weight) if isinstance(weight, Integral) else float(weight) if isinstance(weight, Real) else math.nan
        if not 0 <= value <= _MAX_WEIGHT:
            raise DataError(f"query {qid!r}: the weight of {term!r} must be a number from 0 to 1e154, found {weight!r}")
    return {term: float(weight) for term, weight in checked.items() if weight > 0}


class OneEncoder:
    """Refuses vectors of a different encoder than the first; vectors of unknown origin are accepted.

    Vectors of texts and of pictures may be mixed if the pictures come from one image head that was trained for the text model.

    Attributes:
        contract: The contract of the first encoder, or of the image head; None until it is known.
    """

    def __init__(
        self, contract: Contract | None = None, name: str = "", *, any_scale: bool = False, queries: bool = False
    ) -> None:
        """Start with the encoder of known vectors, or without one.

        Args:
            contract: The contract of that encoder.
            name: Name of its vectors in error messages; by default the name of the first vector observed.
            any_scale: Whether vectors may have a different impact scale than the first.
            queries: Whether the observed vectors are queries, which a query table may have made, and the first are documents.
        """
        self.contract = self._accepted = contract
        self._name = name
        self._any_scale = any_scale
        self._queries = queries

    def observe(self, vector: object, name: str) -> None:
        """Check which encoder made a vector, or encoded documents; without a contract, the encoder is unknown.

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
    """Return the position of the first vector that is not known to come from an encoder; None if all come from it.

    ``contract`` returns the encoder's contract, and is called only if a vector has a contract. If the vectors are ``queries``,
    vectors of a query table for the encoder are also accepted.
    """
    contracts = [getattr(vector, "contract", None) for vector in vectors]
    distinct = {id(other): other for other in contracts if other is not None}
    accepted = {
        identity
        for identity, other in distinct.items()
        if (queries and other.queries_for and other.answers(contract()))
        or other.fingerprint == contract().fingerprint
        or other.made_for(contract())
    }
    return next((position for position, other in enumerate(contracts) if id(other) not in accepted), None)


def digest_of_text(text: str) -> bytes:
    """Return the digest of a text that :class:`ImpactVector` records."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def first_of_another_text(vectors: Sequence[object], texts: Sequence[object]) -> int | None:
    """Return the position of the first vector that is known to come from another text than the one beside it, or None."""
    for position, (vector, text) in enumerate(zip(vectors, texts)):
        digest = getattr(vector, "text_digest", None)
        if digest is not None and isinstance(text, str) and digest != digest_of_text(text):
            return position
    return None


def check_contracts(queries: pd.DataFrame, indexed: Contract | None, index: str) -> None:
    """Refuse queries from another encoder than the documents of an index (``indexed``).

    Warn if the impact scale differs, or if the text of a query was changed after its vector was made.

    Raises:
        ContractError: A query was encoded by another encoder; the message names both.
    """
    if "query" in queries.columns:
        changed = first_of_another_text(queries["query_toks"].tolist(), queries["query"].tolist())
        if changed is not None:
            warn(
                f"query {queries['qid'].iloc[changed]!r}: the text was changed after its vector was made, and the vector of "
                "the earlier text is used: put query_encoder() after transformers that rewrite queries, or restore the text "
                "with pt.rewrite.reset()"
            )
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
                f"{contract.impact_scale:g}: rankings stay the same, but scores and sums with other systems' scores change"
            )
