"""What the transformers of a model have in common, and the encoding of texts in frames and streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from ._contract import Contract
from ._documents import check_record
from ._impacts import ImpactVector, check_cuts, to_vectors
from ._pipelining import pipelined
from ._texts import check_texts

if TYPE_CHECKING:
    from ._model import CSPLADE

# Model batches that are sorted by length together. With lengths as in MS MARCO (log-normal, mean 73 tokens) padding adds 1.5 %
# to the tokens of 32 x 32 texts on a CPU, and 11 % to those of PyTerrier's default chunk of 100 documents.
BATCHES = 32

# As many times larger is the window on an accelerator, where batches of short texts are larger too. Ours: with lengths as in
# MS MARCO, padding adds 4 % then, and would add 17 %.
_ON_ACCELERATOR = 4


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


class TextEncoder(ModelTransformer):
    """Adds a column of sparse vectors of texts; rows, order, index and other columns stay."""

    # Column of the vectors, and the word for a row in messages.
    _output: str
    _noun: str

    def __init__(
        self, model: CSPLADE, top_k: int | None, min_weight: float, batch_size: int | None, verbose: bool | None
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
