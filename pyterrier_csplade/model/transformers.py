"""Transformers that encode documents and queries in a pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._settings import CheckedAttribute, Settings, as_name
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.vectors.checks import (
    check_field_name,
    check_finite,
    check_min_weight,
    check_names,
    check_plain_queries,
    check_positive,
    check_record,
    check_texts,
    check_top_k,
    digest_of_text,
)
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import ImpactVector, Quantizer, to_vectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .backbone import Backbone, Role, TokenizedBatch
from .encoder import BatchEncoder
from .pipelining import pipelined
from .sparse import Wanted

# Batches in a window. The texts of a window are sorted by length together; our choice (measured: with lengths as in MS MARCO,
# log-normal with a mean of 73 tokens, padding adds 1.5 % to the tokens on a CPU, and 11 % in PyTerrier's default chunks of 100
# documents).
_BATCHES = 32
# Factor of the window on an accelerator, where batches of short texts are larger; our choice (measured: padding adds 4 %, and
# 17 % without the factor).
_ON_ACCELERATOR = 4
# Windows that an indexing pipeline passes at once; our choice (not measured). The encoding of the first window overlaps with
# nothing.
_WINDOWS = 8


class TextModel(Protocol):
    """The interface of a model that the transformers use; :class:`CSPLADE` implements it."""

    batch_size: int
    text_field: str
    quantization: Any

    @property
    def contract(self) -> Contract:
        """The contract, which defines how texts are encoded."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The index terms."""
        ...

    @property
    def backbone(self) -> Backbone:
        """The loaded model."""
        ...

    @property
    def batch_encoder(self) -> BatchEncoder:
        """Encodes token ids."""
        ...

    def tokenize(self, texts: Sequence[str], role: Role, names: Sequence[str]) -> TokenizedBatch:
        """Tokenise texts."""
        ...

    def encode_tokenized(
        self, batch: TokenizedBatch, wanted: Wanted, *, batch_size: int | None, verbose: bool | None
    ) -> csr_matrix:
        """Encode tokenised texts."""
        ...


class ModelTransformer(Settings, pt.Transformer):
    """Base class of the transformers of a :class:`CSPLADE`. Transformers with the same arguments are equal."""

    # The method of CSPLADE that creates the transformer, for repr.
    _factory: str

    def __init__(self, model: TextModel, batch_size: int | None, verbose: bool | None) -> None:
        self.model = model
        self.verbose = verbose
        self._batch_size: int | None = None
        self.batch_size = batch_size

    @property
    def batch_size(self) -> int | None:
        """Number of texts in a batch; None uses the model's ``batch_size``."""
        return self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int | None) -> None:
        self._set_batch_size(batch_size)

    def _set_batch_size(self, batch_size: int | None) -> None:
        if batch_size is not None:
            check_positive(batch_size=batch_size)
            batch_size = int(batch_size)
        self._batch_size = batch_size

    @property
    def model_batch_size(self) -> int:
        """The batch size in effect: this transformer's, or else the model's."""
        return self._batch_size or self.model.batch_size

    def __str__(self) -> str:
        return as_name(f"{self.model}.{self._factory}({', '.join(self._changed())})")

    def _maker(self) -> str:
        return f"{self.model!r}.{self._factory}"

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.model,)

    def _defaults(self) -> dict[str, Any]:
        defaults = super()._defaults()
        return {**defaults, "text_field": self.model.text_field} if "text_field" in defaults else defaults


class ReadsDocuments:
    """Mixin for transformers that read the texts of documents."""

    model: TextModel
    _text_field: str | None

    @property
    def text_field(self) -> str:
        """Column of the text; set it to None for the model's ``text_field``."""
        return self._text_field or self.model.text_field

    @text_field.setter
    def text_field(self, text_field: str | None) -> None:
        check_field_name(text_field)
        self._text_field = text_field


class TextEncoder(ModelTransformer):
    """Adds a column with the sparse vectors of texts. Rows, their order, the index and other columns do not change."""

    # Column of the vectors, and role of the texts.
    _output: str
    _role: Role

    #: Number of heaviest terms that are kept; None keeps all.
    top_k = CheckedAttribute(check_top_k)
    #: Smallest weight that is kept.
    min_weight = CheckedAttribute(check_min_weight)

    def __init__(
        self,
        model: TextModel,
        *,
        top_k: int | None = None,
        min_weight: float = 0.0,
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        """Create an encoder; :meth:`CSPLADE.doc_encoder` explains the arguments."""
        super().__init__(model, batch_size, verbose)
        self.top_k = top_k
        self.min_weight = min_weight

    def vector_contract(self) -> Contract:
        """Return the contract of the vectors; loads the model."""
        return self.model.contract

    @property
    def _inputs(self) -> tuple[str, str]:
        """Columns of the identifier (docno or qid) and of the text."""
        raise NotImplementedError

    def _matrix(self, batch: TokenizedBatch, texts: list[str]) -> csr_matrix:
        """Encode the batch that ``_tokenize`` returned for ``texts``; return one row per text."""
        raise NotImplementedError

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode a frame.

        Raises:
            DataError: A text is not a string or not valid Unicode; the message names its docno or qid.
        """
        pt.validate.columns(inp, includes=list(self._inputs), context=self)
        check_names(inp.columns)
        identifiers, texts = (inp[name].tolist() for name in self._inputs)
        vectors: list[ImpactVector] = []
        if texts:  # do not load the model for an empty frame
            vectors = list(self._vectors(self._matrix(self._tokenize(texts, identifiers), texts), texts))
        return inp.assign(**{self._output: pd.Series(vectors, index=inp.index, dtype=object)})

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Encode a stream of records in constant memory; otherwise like ``transform``.

        While the caller uses the vectors of one window of texts (``model_batch_size`` times 32), background threads encode the
        next window and tokenise the one after it.
        """
        for window, matrix in pipelined(self._windows(iter(inp)), self._tokenized, self._encoded):
            for record, vector in zip(window, self._vectors(matrix, [record[self._inputs[1]] for record in window])):
                yield {**record, self._output: vector}

    def _windows(self, records: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
        seen = 0
        size = _BATCHES * self.model_batch_size
        while window := list(islice(records, size)):
            if len(window) == size and self.model.backbone.device.type != "cpu":
                window += islice(records, (_ON_ACCELERATOR - 1) * size)
            for position, record in enumerate(window, start=seen + 1):
                check_record(record, f"{self._role} {position}")
            seen += len(window)
            pt.validate.columns(list(window[0]), includes=list(self._inputs), context=self)
            yield window

    def _tokenized(self, window: list[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], TokenizedBatch]:
        identifiers, texts = ([record.get(name) for record in window] for name in self._inputs)
        return window, self._tokenize(texts, identifiers)

    def _encoded(self, job: tuple[list[Mapping[str, Any]], TokenizedBatch]) -> tuple[list[Mapping[str, Any]], csr_matrix]:
        window, batch = job
        return window, self._matrix(batch, [record[self._inputs[1]] for record in window])

    def _tokenize(self, texts: list[Any], identifiers: Iterable[Any]) -> TokenizedBatch:
        return self.model.tokenize(texts, self._role, [f"{self._role} {identifier}" for identifier in identifiers])

    def _vectors(self, matrix: csr_matrix, texts: Sequence[str]) -> Iterator[ImpactVector]:
        contract = self.vector_contract()
        # One at a time, because dictionaries of all vectors would take ten times the memory of the matrix.
        for row, text in enumerate(texts):
            (vector,) = to_vectors(matrix[row], self.model.vocabulary, contract)
            vector.text_digest = digest_of_text(text)
            yield vector

    def _encode(self, batch: TokenizedBatch, quantizer: Quantizer | None = None) -> csr_matrix:
        wanted = Wanted(self.min_weight, self.top_k, quantizer)
        return self.model.encode_tokenized(batch, wanted, batch_size=self.batch_size, verbose=self.verbose)


def _check_quantizer(quantizer: Any) -> Any:
    if isinstance(quantizer, type) or not (quantizer is None or quantizer == "default" or callable(quantizer)):
        raise ValueError(f"quantizer must be 'default', a Quantizer, or None for float weights, found {quantizer!r}")
    return quantizer


class DocEncoder(ReadsDocuments, TextEncoder):
    """Adds ``toks`` (term to impact) to documents, for indexing; created by :meth:`CSPLADE.doc_encoder`.

    A document without text has an empty vector.

    Example::

        (csplade.doc_encoder(top_k=200) >> ImpactIndex("my.index")).index(dataset.get_corpus_iter())
    """

    schematic = {"label": "CSPLADE documents", "help_url": None}
    _factory, _output, _role = "doc_encoder", "toks", "document"

    #: A Quantizer, "default" for a Quantizer with the contract's scale, or None for float weights.
    quantizer = CheckedAttribute(_check_quantizer)

    def __init__(
        self,
        model: TextModel,
        *,
        text_field: str | None = None,
        top_k: int | None = None,
        min_weight: float = 0.0,
        quantizer: Quantizer | None | str = "default",
        counts: bool = False,
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        """Create an encoder; :meth:`CSPLADE.doc_encoder` explains the arguments."""
        super().__init__(model, top_k=top_k, min_weight=min_weight, batch_size=batch_size, verbose=verbose)
        self.text_field = text_field  # type: ignore[assignment]  # the property takes None
        self.quantizer = quantizer
        self.counts = counts

    @property
    def batch_size(self) -> int:
        """Number of documents that PyTerrier's indexing pipelines, which read this attribute, pass at once: several windows.

        The texts of a window are sorted by length to reduce padding, and one window is indexed while the next is encoded.
        Setting this attribute sets the argument ``batch_size``, which ``get_parameter`` returns.
        """
        return _WINDOWS * _BATCHES * self.model_batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int | None) -> None:
        self._set_batch_size(batch_size)

    def get_parameter(self, name: str) -> Any:
        """Return the value of a parameter."""
        return self._batch_size if name == "batch_size" else super().get_parameter(name)

    def settings(self) -> dict[str, Any]:
        """Return the value of each setting."""
        return {**super().settings(), "batch_size": self._batch_size}

    def vector_contract(self) -> Contract:
        """Return the contract of the vectors, with the quantizer's impact scale, or 1 without a quantizer; loads the model."""
        quantizer = self._to_impacts()
        scale = 1.0 if quantizer is None else getattr(quantizer, "scale", self.model.contract.impact_scale)
        return scaled(self.model.contract, float(scale))

    def _to_impacts(self) -> Any:
        return Quantizer(self.model.contract.impact_scale) if self.quantizer == "default" else self.quantizer

    @property
    def _inputs(self) -> tuple[str, str]:
        return "docno", self.text_field

    def impacts(self, texts: Sequence[str], names: Sequence[str]) -> csr_matrix:
        """Encode texts into a matrix instead of dictionaries.

        Args:
            texts: Any number of texts.
            names: Names of the texts in error messages.

        Returns:
            [texts, terms of the model's vocabulary] without stored zeros: int32 impacts, or float32 weights without a
            quantizer.

        Raises:
            DataError: A text is not a string or not valid Unicode, or a weight is not finite or too large; the message names
                the text.
        """
        return self.prepared_impacts(self.prepared(texts, names))

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns, of which a document needs at least one."""
        return (self.text_field,)

    def contents(self, documents: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
        """Return the texts of documents, as an encoded collection reads them.

        Raises:
            DataError: A document has no text, or its text cannot be used; the message names the document.
        """
        for name, document in zip(names, documents):
            if self.text_field not in document:
                fields = ", ".join(map(repr, document))
                raise DataError(f"{name} has no field {self.text_field!r}, only {fields}: name the fields with text")
        return check_texts([document[self.text_field] for document in documents], names)

    def prepared(self, texts: Sequence[str], names: Sequence[str]) -> TokenizedBatch:
        """Tokenise texts, for ``prepared_impacts``."""
        return self.model.tokenize(texts, "document", names)

    def prepared_impacts(self, batch: TokenizedBatch) -> csr_matrix:
        """Encode texts that were tokenised; otherwise like ``impacts``."""
        quantizer = self._to_impacts()
        if type(quantizer) is Quantizer:  # a subclass may compute something else
            return self._encode(batch, quantizer)
        matrix = self._encode(batch)
        check_finite(matrix, batch.names)
        return quantizer(matrix) if callable(quantizer) else matrix

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode a frame; see the base class."""
        encoded = super().transform(inp)
        if self.counts:
            encoded["toks_tf"] = pd.Series(token_counts(self.model, inp[self.text_field].tolist()), inp.index, dtype=object)
        return encoded

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Encode a stream of records; see the base class."""
        for record in super().transform_iter(inp):
            yield {**record, "toks_tf": token_counts(self.model, [record[self.text_field]])[0]} if self.counts else record

    def _matrix(self, batch: TokenizedBatch, texts: list[str]) -> csr_matrix:
        matrix = self.prepared_impacts(batch)
        _warn_if_empty(matrix, texts)
        return matrix


class QueryEncoder(TextEncoder):
    """Adds ``query_toks`` (term to float weight) to queries; created by :meth:`CSPLADE.query_encoder`.

    Queries with the same text are encoded once. A query without text has an empty vector.

    Example::

        pipeline = csplade.query_encoder() >> index.retriever()
    """

    schematic = {"label": "CSPLADE queries", "help_url": None}
    _factory, _output, _role = "query_encoder", "query_toks", "query"
    _inputs = ("qid", "query")

    def _tokenize(self, texts: list[Any], identifiers: Iterable[Any]) -> TokenizedBatch:
        identifiers = list(identifiers)
        checked = check_plain_queries(texts, [f"query {identifier}" for identifier in identifiers])
        distinct = dict(zip(checked, identifiers))
        return super()._tokenize(list(distinct), distinct.values())

    def _matrix(self, batch: TokenizedBatch, texts: list[str]) -> csr_matrix:
        matrix = self._encode(batch)
        check_finite(matrix, batch.names)
        rows = {text: row for row, text in enumerate(batch.texts)}
        return matrix if len(rows) == len(texts) else matrix[[rows[text] for text in texts]]


def token_counts(model: TextModel, texts: Sequence[str]) -> list[ImpactVector]:
    """Count the index terms among the tokens of texts, up to the contract's document length, without prefix and special tokens.

    Returns:
        A dictionary from token to count for each text.
    """
    if not texts:  # tokenizers refuse an empty list
        return []
    vocabulary, length = model.vocabulary, model.contract.document_length
    columns = model.backbone.column_of_token.tolist()
    terms = {token: vocabulary.terms[column] for token, column in enumerate(columns) if column >= 0}
    readable = model.backbone.readable(length)
    shortened = [text[:readable] for text in texts]
    encoded = model.backbone.tokenizer(shortened, add_special_tokens=False, verbose=False)["input_ids"]
    counted = (Counter(terms[i] for i in ids[:length] if i in terms) for ids in encoded)
    return [ImpactVector(dict(counts), model.contract) for counts in counted]


@lru_cache
def scaled(contract: Contract, impact_scale: float) -> Contract:
    """Return a contract with an impact scale, always as the same object, so that contracts can be compared by identity."""
    return contract if contract.impact_scale == impact_scale else contract.replace(impact_scale=impact_scale)


def _warn_if_empty(matrix: csr_matrix, texts: Sequence[str]) -> None:
    """Warn if most texts have no term, which indicates that the model has collapsed."""
    with_text = np.array([bool(text.strip()) for text in texts])
    empty, total = int(np.sum((np.diff(matrix.indptr) == 0) & with_text)), int(with_text.sum())
    if 2 * empty > total:
        warn(
            f"{empty:,} of {total:,} texts ({empty / total:.0%}) have no impact above 0, so no query can find them: "
            "check the model and the quantizer's scale"
        )
