"""The encoders of documents and queries as transformers of a pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from ._contract import Contract
from ._impacts import Quantizer, check_finite
from ._model_transformer import BATCHES, TextEncoder
from ._token_counts import token_counts

if TYPE_CHECKING:
    from ._model import CSPLADE

# Windows of so many batches in what an indexing pipeline hands over. Ours: the first of eight overlaps with nothing.
_WINDOWS = 8


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
