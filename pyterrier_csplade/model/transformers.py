"""The encoders of documents and queries as transformers of a pipeline."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade.vectors.checks import check_cuts, check_finite, check_record, check_texts
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import ImpactVector, Quantizer, to_vectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .pipelining import pipelined

if TYPE_CHECKING:  # loads torch
    from .backbone import Backbone, Role, TokenizedTexts
    from .encoder import BatchEncoder

# Windows of so many batches in what an indexing pipeline hands over. Ours: the first of eight overlaps with nothing.
_WINDOWS = 8


# Model batches that are sorted by length together. With lengths as in MS MARCO (log-normal, mean 73 tokens) padding adds 1.5 %
# to the tokens of 32 x 32 texts on a CPU, and 11 % to those of PyTerrier's default chunk of 100 documents.
BATCHES = 32

# As many times larger is the window on an accelerator, where batches of short texts are larger too. Ours: with lengths as in
# MS MARCO, padding adds 4 % then, and would add 17 %.
_ON_ACCELERATOR = 4


class TextModel(Protocol):
    """What the transformers need of a model; :class:`CSPLADE` has it."""

    batch_size: int
    text_field: str
    quantization: Any

    @property
    def contract(self) -> Contract:
        """How the model's texts are encoded."""
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

    @property
    def encode_docs(self) -> Callable[..., csr_matrix]:
        """Encodes documents."""
        ...

    @property
    def encode_queries(self) -> Callable[..., csr_matrix]:
        """Encodes queries."""
        ...

    def tokenize(self, texts: Sequence[str], role: Role, names: Sequence[str]) -> TokenizedTexts:
        """Tokenise texts ahead of encoding them."""
        ...


class ModelTransformer(pt.Transformer):
    """A transformer that a :class:`CSPLADE` made: equal, and of equal hash, to one that was made with the same arguments."""

    # The method of CSPLADE that makes it, for repr.
    _factory: str

    def __init__(self, model: TextModel, batch_size: int | None, verbose: bool | None) -> None:
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


class TextEncoder(ModelTransformer):
    """Adds a column of sparse vectors of texts; rows, order, index and other columns stay."""

    # Column of the vectors, and the word for a row in messages.
    _output: str
    _noun: str

    def __init__(
        self, model: TextModel, top_k: int | None, min_weight: float, batch_size: int | None, verbose: bool | None
    ) -> None:
        super().__init__(model, batch_size, verbose)
        check_cuts(top_k, min_weight)
        self.top_k = top_k
        self.min_weight = min_weight

    def vector_contract(self) -> Contract:
        """Return the contract of the vectors; loads the model."""
        return self.model.contract

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
        seen = 0
        size = BATCHES * (self._batch_size or self.model.batch_size)
        while window := list(islice(records, size)):
            if len(window) == size and self.model.backbone.device.type != "cpu":
                window += islice(records, (_ON_ACCELERATOR - 1) * size)
            for position, record in enumerate(window, start=seen + 1):
                check_record(record, f"{self._noun} {position}")
            seen += len(window)
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
        contract = self.vector_contract()
        # One at a time: as dictionaries, all vectors of a chunk would take ten times the memory of the matrix.
        for row in range(matrix.shape[0]):
            yield from to_vectors(matrix[row], self.model.vocabulary, contract)

    def _options(self, names: Sequence[str], min_weight: float) -> dict[str, Any]:
        limits = {"min_weight": min_weight, "top_k": self.top_k}
        return {**limits, "batch_size": self._batch_size, "verbose": self.verbose, "names": names}

    def _settings(self) -> dict[str, tuple[Any, Any]]:
        return {"top_k": (self.top_k, None), "min_weight": (self.min_weight, 0.0), **super()._settings()}


class DocEncoder(TextEncoder):
    """Adds ``toks`` (term to impact) to documents, for indexing; :meth:`CSPLADE.doc_encoder` makes it.

    A document without any text has an empty vector.

    Example::

        (csplade.doc_encoder(top_k=200) >> ImpactIndex("my.index")).index(dataset.get_corpus_iter())
    """

    schematic = {"label": "CSPLADE documents", "help_url": None}
    _factory, _output, _noun = "doc_encoder", "toks", "document"

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
        super().__init__(model, top_k, min_weight, batch_size, verbose)
        if isinstance(quantizer, type) or not (quantizer is None or quantizer == "default" or callable(quantizer)):
            raise ValueError(f"quantizer must be 'default', a Quantizer, or None for float weights, found {quantizer!r}")
        self.text_field = text_field or model.text_field
        self.quantizer = quantizer
        self.counts = counts

    @property
    def batch_size(self) -> int:
        """Documents that an indexing pipeline of PyTerrier hands over together: several windows of the model's batches.

        Those of a window are sorted by length, so that little is padded; one window is indexed while the next is encoded.
        """
        return _WINDOWS * BATCHES * super().batch_size

    def vector_contract(self) -> Contract:
        """Return the contract of the vectors, with the impact scale of the quantizer, 1 without; loads the model."""
        quantizer = self._to_impacts()
        scale = 1.0 if quantizer is None else getattr(quantizer, "scale", self.model.contract.impact_scale)
        return _scaled(self.model.contract, scale)

    def _to_impacts(self) -> Any:
        return Quantizer(self.model.contract.impact_scale) if self.quantizer == "default" else self.quantizer

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
            DataError: A text is no string or no valid Unicode, or its weights are not finite or too large; names it.
        """
        quantizer, options = self._to_impacts(), self._options(names, self.min_weight)
        if type(quantizer) is Quantizer:  # a subclass may do something else
            return self.model.encode_docs(texts, **options, quantizer=quantizer)
        matrix = self.model.encode_docs(texts, **options)
        check_finite(matrix, names)
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


class QueryEncoder(TextEncoder):
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
        model: TextModel,
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
        matrix = self.model.encode_queries(list(distinct), **self._options(names, self.min_weight))
        check_finite(matrix, names)
        return matrix if len(rows) == len(texts) else matrix[[rows[text] for text in texts]]


@lru_cache
def _scaled(contract: Contract, impact_scale: float) -> Contract:
    """Return the same object each time, by which others see at once that vectors come from one encoder."""
    return contract if contract.impact_scale == impact_scale else contract.replace(impact_scale=impact_scale)


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


def token_counts(model: TextModel, texts: Sequence[str]) -> list[ImpactVector]:
    """Count the tokens of texts that are index terms, within the contract's document length, without prefix and special tokens.

    Args:
        model: Whose tokenizer and contract.
        texts: Any number of texts.

    Returns:
        Token to count, for each text.
    """
    if not texts:  # tokenizers refuse an empty list
        return []
    vocabulary, length = model.vocabulary, model.contract.document_length
    terms = dict(zip(vocabulary.token_ids.tolist(), vocabulary.terms))
    readable = model.backbone.readable(length)
    encoded = model.backbone.tokenizer([text[:readable] for text in texts], add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    counted = (Counter(ids[:length]) for ids in encoded)
    return [ImpactVector({terms[i]: n for i, n in counts.items() if i in terms}, model.contract) for counts in counted]
