"""The encoders of documents and queries as transformers of a pipeline."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from ._impacts import ImpactVector, Quantizer, check_finite, to_vectors, top_k
from ._pipelining import pipelined
from ._texts import check_texts
from ._token_counts import token_counts

if TYPE_CHECKING:
    from ._model import CSPLADE

# Model batches that are sorted by length together. With log-normal lengths (median 120 tokens, sigma 0.8, at most 512) padding
# adds 5 % to the tokens of 32 batches of 32, and 58 % to those of PyTerrier's default chunk of 100 documents.
_BATCHES = 32

# Windows of so many batches in what an indexing pipeline hands over. Ours: the first of eight overlaps with nothing.
_WINDOWS = 8


class ModelTransformer(pt.Transformer):
    """A transformer that a :class:`CSPLADE` made: equal, and of equal hash, to one that was made with the same arguments."""

    # The method of CSPLADE that makes it, for repr.
    _factory: str

    def __init__(self, model: CSPLADE, batch_size: int | None, verbose: bool | None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, or None for the model's, found {batch_size}")
        self.model = model
        self.verbose = verbose
        self._batch_size = batch_size

    @property
    def batch_size(self) -> int:
        """Texts that go through the model together."""
        return self._batch_size or self.model.batch_size

    def _settings(self) -> dict[str, tuple[Any, Any]]:
        """Arguments beside the model and ``verbose``: name to value and default."""
        return {"batch_size": (self._batch_size, None)}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ModelTransformer)
            and type(self) is type(other)
            and self.model == other.model
            and self._settings() == other._settings()
        )

    def __hash__(self) -> int:
        return hash((type(self), self.model, *self._settings().values()))

    def __repr__(self) -> str:
        changed = [f"{name}={value!r}" for name, (value, default) in self._settings().items() if value != default]
        return f"{self.model!r}.{self._factory}({', '.join(changed)})"


class _Encoder(ModelTransformer):
    """Adds a column of sparse vectors of texts; rows, order, index and other columns stay."""

    # Column of the vectors, and the word for a row in messages.
    _output: str
    _noun: str

    def __init__(
        self, model: CSPLADE, top_k: int | None, min_weight: float, batch_size: int | None, verbose: bool | None
    ) -> None:
        super().__init__(model, batch_size, verbose)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, or None for all terms, found {top_k}")
        if not 0 <= min_weight < math.inf:
            raise ValueError(f"min_weight must be finite and not negative, found {min_weight}")
        self.top_k = top_k
        self.min_weight = min_weight

    @property
    def _inputs(self) -> tuple[str, str]:
        """Columns of docno or qid and of the text."""
        raise NotImplementedError

    def _matrix(self, texts: list[str], names: list[str]) -> csr_matrix:
        """Encode texts, one row for each; ``names`` are for messages."""
        raise NotImplementedError

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode a frame.

        Raises:
            DataError: A text is None, NaN, a number, bytes or no valid Unicode; names its docno or qid.
        """
        pt.validate.columns(inp, includes=list(self._inputs), context=self)
        identifiers, texts = (inp[name].tolist() for name in self._inputs)
        vectors: list[ImpactVector] = []
        if texts:  # where there are none, nothing is loaded
            names = self._names(identifiers)
            vectors = list(self._vectors(self._matrix(check_texts(texts, names), names)))
        return inp.assign(**{self._output: pd.Series(vectors, index=inp.index, dtype=object)})

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Encode a stream of records in constant memory; otherwise as ``transform``.

        While the caller uses the vectors of one window of texts (``batch_size`` times 32), those of the next are made and the
        texts after them tokenised, in background threads.
        """
        for window, matrix in pipelined(self._windows(iter(inp)), self._tokenized, self._encoded):
            for record, vector in zip(window, self._vectors(matrix)):
                yield {**record, self._output: vector}

    def _windows(self, records: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
        while window := list(islice(records, _BATCHES * (self._batch_size or self.model.batch_size))):
            pt.validate.columns(list(window[0]), includes=list(self._inputs), context=self)
            yield window

    def _tokenized(self, window: list[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str], list[str]]:
        identifiers, texts = ([record.get(name) for record in window] for name in self._inputs)
        names = self._names(identifiers)
        return window, self._tokenize(check_texts(texts, names), names), names

    def _encoded(self, job: tuple[list[Mapping[str, Any]], list[str], list[str]]) -> tuple[list[Mapping[str, Any]], csr_matrix]:
        window, texts, names = job
        return window, self._matrix(texts, names)

    def _tokenize(self, texts: list[str], names: list[str]) -> list[str]:
        """Do ahead what does not need the model's weights."""
        return texts

    def _names(self, identifiers: Iterable[Any]) -> list[str]:
        return [f"{self._noun} {identifier}" for identifier in identifiers]

    def _vectors(self, matrix: csr_matrix) -> Iterator[ImpactVector]:
        # One at a time: as dictionaries, all vectors of a chunk would take ten times the memory of the matrix.
        for row in range(matrix.shape[0]):
            yield from to_vectors(matrix[row], self.model.vocabulary, self.model.contract)

    def _options(self, names: Sequence[str], min_weight: float) -> dict[str, Any]:
        return {"min_weight": min_weight, "batch_size": self._batch_size, "verbose": self.verbose, "names": names}

    def _cut(self, matrix: csr_matrix, names: Sequence[str]) -> csr_matrix:
        check_finite(matrix, names)
        return matrix if self.top_k is None else top_k(matrix, self.top_k)

    def _settings(self) -> dict[str, tuple[Any, Any]]:
        return {"top_k": (self.top_k, None), "min_weight": (self.min_weight, 0.0), **super()._settings()}


class DocEncoder(_Encoder):
    """Adds ``toks`` (term to impact) to documents, for indexing; :meth:`CSPLADE.doc_encoder` makes it.

    A document without any text has an empty vector.

    Example::

        (csplade.doc_encoder(top_k=200) >> ImpactIndex("my.index")).index(dataset.get_corpus_iter())
    """

    schematic = {"label": "CSPLADE documents", "help_url": None}
    _factory, _output, _noun = "doc_encoder", "toks", "document"

    def __init__(
        self,
        model: CSPLADE,
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
        super().__init__(model, top_k, min_weight, batch_size, verbose)
        if not (quantizer is None or quantizer == "default" or callable(quantizer)):
            raise ValueError(f"quantizer must be 'default', a Quantizer, or None for float weights, found {quantizer!r}")
        self.text_field = text_field or model.text_field
        self.quantizer = quantizer
        self.counts = counts

    @property
    def batch_size(self) -> int:
        """Documents that an indexing pipeline of PyTerrier hands over together: several windows of the model's batches.

        Those of a window are sorted by length, so that little is padded; one window is indexed while the next is encoded.
        """
        return _WINDOWS * _BATCHES * super().batch_size

    @property
    def _inputs(self) -> tuple[str, str]:
        return "docno", self.text_field

    def impacts(self, texts: Sequence[str], names: Sequence[str]) -> csr_matrix:
        """Encode texts into a matrix instead of dictionaries.

        Args:
            texts: Any number of them.
            names: How messages call them.

        Returns:
            [texts, terms of the model's vocabulary] without stored zeros: int32 impacts, or float32 weights without quantizer.

        Raises:
            DataError: A text is no string or no valid Unicode, or its weights are not finite; names it.
        """
        quantizer = Quantizer(self.model.contract.impact_scale) if self.quantizer == "default" else self.quantizer
        smallest = quantizer.smallest_weight if isinstance(quantizer, Quantizer) else 0.0
        options = self._options(names, max(self.min_weight, smallest))
        matrix = self._cut(self.model.encode_docs(texts, **options), names)
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

    def _tokenize(self, texts: list[str], names: list[str]) -> list[str]:
        return self.model.tokenize(texts, "document", names)

    def _matrix(self, texts: list[str], names: list[str]) -> csr_matrix:
        matrix = self.impacts(texts, names)
        _warn_if_empty(matrix, texts)
        return matrix

    def _settings(self) -> dict[str, tuple[Any, Any]]:
        return {
            "text_field": (self.text_field, self.model.text_field),
            **super()._settings(),
            "quantizer": (self.quantizer, "default"),
            "counts": (self.counts, False),
        }


class QueryEncoder(_Encoder):
    """Adds ``query_toks`` (term to float weight) to queries; :meth:`CSPLADE.query_encoder` makes it.

    Queries of the same text are encoded once. A query without any text has an empty vector.

    Example::

        pipeline = csplade.query_encoder() >> index.retriever()
    """

    schematic = {"label": "CSPLADE queries", "help_url": None}
    _factory, _output, _noun = "query_encoder", "query_toks", "query"
    _inputs = ("qid", "query")

    def __init__(
        self,
        model: CSPLADE,
        *,
        top_k: int | None = None,
        min_weight: float = 0.0,
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        """Create an encoder; :meth:`CSPLADE.query_encoder` explains the arguments."""
        super().__init__(model, top_k, min_weight, batch_size, verbose)

    def _matrix(self, texts: list[str], names: list[str]) -> csr_matrix:
        distinct = dict(zip(texts, names))
        names, rows = list(distinct.values()), {text: row for row, text in enumerate(distinct)}
        matrix = self._cut(self.model.encode_queries(list(distinct), **self._options(names, self.min_weight)), names)
        return matrix if len(rows) == len(texts) else matrix[[rows[text] for text in texts]]


def _warn_if_empty(matrix: csr_matrix, texts: Sequence[str]) -> None:
    """Warn when most texts have no term, the mark of a model that has collapsed."""
    with_text = np.array([bool(text.strip()) for text in texts])
    empty, total = int(np.sum((np.diff(matrix.indptr) == 0) & with_text)), int(with_text.sum())
    if 2 * empty > total:
        warnings.warn(
            f"{empty:,} of {total:,} texts ({empty / total:.0%}) have no impact above 0: no query will find them. "
            "Does the model work, and is the quantizer's scale large enough?",
            stacklevel=2,
        )
