"""A transformer that encodes pictures in a pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt
import torch
from scipy.sparse import csr_matrix, vstack
from torch import nn

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade._settings import CheckedAttribute
from pyterrier_csplade.model.csplade import CSPLADE
from pyterrier_csplade.model.hub import LOADING_LOCK
from pyterrier_csplade.model.sparse import Wanted
from pyterrier_csplade.model.transformers import ModelTransformer, scaled
from pyterrier_csplade.vectors.checks import check_min_weight, check_names, check_record, check_top_k
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import ImpactVector, Quantizer, to_vectors

from .features import Features, check_same, check_vectors, compute, features_of, make_features
from .head import SavedHead, last_norm
from .pictures import open_picture, picture_digest

# Largest accepted difference of a feature of the test picture, relative to the largest feature; our choice (not measured).
_TOLERANCE = 1e-2


def _check_column(name: Any) -> str:
    if not (isinstance(name, str) and name):
        raise ValueError(f"the name of a column must be a text that is not empty, found {name!r}")
    return name


def _check_quantizer(quantizer: Any) -> Any:
    if not (quantizer is None or quantizer == "default" or isinstance(quantizer, Quantizer)):
        raise ValueError(f"quantizer must be 'default', a Quantizer, or None for float weights, found {quantizer!r}")
    return quantizer


class ImageEncoder(ModelTransformer):
    """Adds ``toks`` (term to impact) to pictures, in the vocabulary of a text model; created by :meth:`CSPLADE.image_encoder`.

    The query encoder of the text model finds these pictures, alone or beside texts in the same index.

    Examples:
        Index pictures, and search them::

            pictures = [{"docno": "p1", "image": "figures/cell.png"}]
            index = ImpactIndex("figures.csplade")
            (csplade.image_encoder("runs/figures-head") >> index).index(pictures)
            (csplade.query_encoder() >> index.retriever()).search("a plant cell")
    """

    schematic = {"label": "CSPLADE pictures", "help_url": None}
    _factory = "image_encoder"

    model: CSPLADE

    #: Column of the pictures: paths, bytes, pillow images or arrays.
    column = CheckedAttribute(_check_column)
    #: Column of image vectors, which replace the features of a picture if present.
    vector_column = CheckedAttribute(_check_column)
    #: Column of the result.
    output = CheckedAttribute(_check_column)
    #: Number of heaviest terms that are kept; None keeps all.
    top_k = CheckedAttribute(check_top_k)
    #: Smallest weight that is kept.
    min_weight = CheckedAttribute(check_min_weight)
    #: A Quantizer, "default" for a Quantizer with the contract's scale, or None for float weights.
    quantizer = CheckedAttribute(_check_quantizer)

    def __init__(
        self,
        model: CSPLADE,
        head: str | Path,
        *,
        features: Any = None,
        column: str = "image",
        vector_column: str = "image_vec",
        output: str = "toks",
        top_k: int | None = None,
        min_weight: float = 0.0,
        quantizer: Quantizer | None | str = "default",
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        """Create an encoder; :meth:`CSPLADE.image_encoder` explains the arguments."""
        super().__init__(model, batch_size, verbose)
        self._head = str(head)
        self._opened: _Opened | None = None
        # Fingerprint of the head that was opened first, which copies and pickles keep.
        self._known: str | None = None
        self.features = features
        self.column = column
        self.vector_column = vector_column
        self.output = output
        self.top_k = top_k
        self.min_weight = min_weight
        self.quantizer = quantizer

    @property
    def head(self) -> str:
        """Directory of the head."""
        return self._head

    @property
    def features(self) -> Any:
        """The features of pictures; None uses the features that the head was trained with."""
        return self._features

    @features.setter
    def features(self, features: Any) -> None:
        make_features(features)
        self._features, self._opened = features, None

    @property
    def contract(self) -> Contract:
        """Contract of the vectors, with the text model's impact scale; loads the head and the model."""
        return self._open().contract

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode a frame with ``docno`` and a column of pictures or of image vectors.

        Raises:
            ContractError: The head was trained for another text model, or on other features.
            DataError: A picture or a vector cannot be used; the message names its docno.
        """
        records = inp.to_dict("records")
        self._check_columns(list(inp.columns))
        vectors: list[ImpactVector] = []
        for chunk in pt.tqdm(self._chunks(records), disable=not self._shows, desc="CSPLADE picture encoding", unit="batch"):
            vectors += self._vectors(chunk)
        return inp.assign(**{self.output: pd.Series(vectors, index=inp.index, dtype=object)})

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Encode a stream of records in constant memory; otherwise like ``transform``."""
        records, seen = iter(inp), 0
        while chunk := list(islice(records, self.model_batch_size)):
            for position, record in enumerate(chunk, start=seen + 1):
                check_record(record, f"picture {position}")
                self._check_columns(list(record))
            seen += len(chunk)
            for record, vector in zip(chunk, self._vectors(chunk)):
                yield {**record, self.output: vector}

    def impacts(self, records: Sequence[Mapping[str, Any]]) -> csr_matrix:
        """Encode pictures into a matrix instead of dictionaries.

        Args:
            records: ``docno`` and a picture or an image vector of each document.

        Returns:
            A matrix [pictures, terms of the model's vocabulary] of int32 impacts, or of float32 weights without a quantizer.
        """
        names = [f"picture {record.get('docno')}" for record in records]
        return self.prepared_impacts(ImageVectors(self._image_vectors(self._open(), records, names), names))

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns, of which a document needs at least one."""
        return self.column, self.vector_column

    def contents(self, documents: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[PictureContent]:
        """Return the pictures or image vectors of documents, as an encoded collection reads them.

        Raises:
            DataError: A document has neither, or its picture cannot be used; the message names the document.
        """
        return [self._content(document, name) for document, name in zip(documents, names)]

    def prepared(self, contents: Sequence[PictureContent], names: Sequence[str]) -> ImageVectors:
        """Compute image vectors, for ``prepared_impacts``. At most one batch of pictures is open at a time."""
        size, records = self.model_batch_size, [content.record for content in contents]
        parts, opened = [slice(start, start + size) for start in range(0, len(records), size)], self._open()
        return ImageVectors(np.concatenate([self._image_vectors(opened, records[part], names[part]) for part in parts]), names)

    def prepared_impacts(self, batch: ImageVectors) -> csr_matrix:
        """Encode image vectors; otherwise like ``impacts``."""
        quantizer = self._to_impacts()
        wanted = Wanted(self.min_weight, self.top_k, quantizer if type(quantizer) is Quantizer else None)
        states, size = self._open().states(batch.vectors), self.model_batch_size
        parts = [slice(start, start + size) for start in range(0, len(states), size)]
        encode = self.model.batch_encoder.encode_states
        rows = [encode(states[part, None], batch.names[part], wanted) for part in parts or [slice(0)]]
        matrix = vstack(rows, format="csr")
        return matrix if type(quantizer) is Quantizer or quantizer is None else quantizer(matrix, batch.names)

    def decode(self, picture: Any, top_k: int | None = None) -> dict[str, float]:
        """Return the terms of a picture and their weights, the heaviest first.

        Args:
            picture: A picture in any form, or an image vector (a float array of one dimension).
            top_k: Number of terms; None returns all.
        """
        row = self._weights(picture)
        found = dict(to_vectors(row, self.model.vocabulary)[0])
        return dict(list(found.items())[: check_top_k(top_k)])

    def explain(self, query: str, picture: Any) -> dict[str, float]:
        """Return the contribution of each matching term to the score of a query and a picture, the largest first.

        Args:
            query: Text of the query.
            picture: As in ``decode``.
        """
        product = self.model.encode_queries([query]).multiply(self._weights(picture))
        return dict(to_vectors(csr_matrix(product), self.model.vocabulary)[0])

    @property
    def _shows(self) -> bool:
        return bool(self.model.verbose if self.verbose is None else self.verbose)

    def _content(self, document: Mapping[str, Any], name: str) -> PictureContent:
        vector = document.get(self.vector_column)
        if vector is not None and not (isinstance(vector, float) and np.isnan(vector)):
            found = _as_vector(vector, self._open().saved.head.inputs, name)
            return PictureContent({self.vector_column: found}, hashlib.sha256(found.tobytes()).hexdigest())
        if self.column not in document:
            fields = ", ".join(map(repr, document))
            raise DataError(f"{name} has neither {self.column!r} nor {self.vector_column!r}, only {fields}: name the column")
        picture = document[self.column]
        return PictureContent({self.column: picture}, picture_digest(picture, name))

    def _weights(self, picture: Any) -> csr_matrix:
        vector = isinstance(picture, np.ndarray) and picture.ndim == 1
        record = {"docno": "given", (self.vector_column if vector else self.column): picture}
        encoder = ImageEncoder(
            self.model, self._head, features=self.features, column=self.column, vector_column=self.vector_column,
            min_weight=self.min_weight, quantizer=None,
        )  # fmt: skip
        encoder._opened = self._open()
        return encoder.impacts([record])

    def _chunks(self, records: list[Any]) -> list[list[Any]]:
        size = self.model_batch_size
        return [records[start : start + size] for start in range(0, len(records), size)]

    def _check_columns(self, columns: list[str]) -> None:
        wanted = self.vector_column if self.vector_column in columns and self.column not in columns else self.column
        pt.validate.columns(columns, includes=["docno", wanted], context=self)
        check_names(columns)

    def _vectors(self, records: Sequence[Mapping[str, Any]]) -> list[ImpactVector]:
        matrix = self.impacts(records)
        return to_vectors(matrix, self.model.vocabulary, self.vector_contract())

    def vector_contract(self) -> Contract:
        """Return the contract of the vectors, with the quantizer's impact scale, or 1 without a quantizer; loads the model."""
        quantizer = self._to_impacts()
        return scaled(self.contract, 1.0 if quantizer is None else quantizer.scale)

    def _to_impacts(self) -> Any:
        return Quantizer(self.model.contract.impact_scale) if self.quantizer == "default" else self.quantizer

    def _image_vectors(self, opened: _Opened, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
        """Return image vectors, float32 [pictures, inputs of the head], from the vector column or the features of pictures."""
        inputs = opened.saved.head.inputs
        vectors = np.zeros((len(records), inputs), dtype=np.float32)
        waiting = []
        for row, (record, name) in enumerate(zip(records, names)):
            given = record.get(self.vector_column)
            if given is None or (isinstance(given, float) and np.isnan(given)):
                waiting.append(row)
                continue
            vectors[row] = _as_vector(given, inputs, name)
        check_vectors(vectors, names)
        if waiting:
            if opened.features is None:
                raise ContractError(
                    f"{names[waiting[0]]}: the head {self._head} was trained on image vectors or on a user's function: add "
                    f"the column {self.vector_column!r}, or pass features=..."
                )
            wanted = [names[row] for row in waiting]
            pictures = [open_picture(records[row].get(self.column), name) for row, name in zip(waiting, wanted)]
            found = compute(opened.features, pictures, wanted)
            if found.shape[1] != inputs:
                raise ContractError(f"the features have {found.shape[1]} numbers, the head {self._head} reads {inputs}")
            vectors[waiting] = found
        return vectors

    def _open(self) -> _Opened:
        if (opened := self._opened) is None or opened.model is not self.model:
            with LOADING_LOCK:
                if (opened := self._opened) is None or opened.model is not self.model:
                    opened = _Opened(self)
                    fingerprint = opened.saved.contract.fingerprint
                    if self._known not in (None, fingerprint):
                        raise ContractError(f"{self._head} contains another image head than before: create another encoder")
                    self._known, self._opened = fingerprint, opened
        return opened

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.model, self._head)

    def _changed(self) -> list[str]:
        return [repr(self._head), *super()._changed()]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


class PictureContent(NamedTuple):
    """A picture of a document, or its vector.

    Attributes:
        record: The column of the picture or vector, and its value.
        digest: Digest of the picture's content, by which a resumed run recognises it.
    """

    record: dict[str, Any]
    digest: str


class ImageVectors(NamedTuple):
    """Image vectors that only need the head.

    Attributes:
        vectors: float32 [pictures, inputs of the head].
        names: Names of the pictures in error messages.
        truncated: Always 0, because no part of a picture is left out.
    """

    vectors: np.ndarray
    names: Sequence[str]
    truncated: int = 0


class _Opened:
    """A head that was checked against the text model and its features."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.model, head = encoder.model, encoder.head
        model = self.model
        self.saved = SavedHead.load(Path(head))
        texts = model.contract
        # The head ends before the vocabulary, so the terms of pictures are folded in the same way as those of texts.
        self.contract = self.saved.contract.replace(fold=texts.fold)
        if not self.contract.made_for(texts):
            raise ContractError(
                f"the image head {head} was trained for the texts of {self.saved.contract.documents_for[:12]}, this is "
                f"{texts.summary}: load that model, or train a head for this one"
            )
        self.device = model.backbone.device
        self.saved.head.to(self.device)
        self.norm: nn.Module = last_norm(model.backbone)
        self.features = self._checked_features(encoder.features, head)

    def _checked_features(self, given: Any, head: str) -> Features | None:
        stored = self.saved.features
        features = make_features(given) or features_of(stored)
        if features is not None and stored is not None:
            check_same(features, stored, head)
            found, expected = np.asarray(probe(features)), np.asarray(self.saved.probe)
            if found.shape != expected.shape or np.abs(found - expected).max() > _TOLERANCE * np.abs(expected).max():
                raise ContractError(
                    f"the features of a test picture differ from the features when {head} was trained: install the library "
                    "versions of the training, or train the head again"
                )
        return features

    @torch.inference_mode()
    def states(self, vectors: np.ndarray) -> torch.Tensor:
        """Return the states that the LM head multiplies, [pictures, width]."""
        return self.saved.head(torch.from_numpy(vectors).to(self.device), self.norm)  # type: ignore[no-any-return]


def probe(features: Features) -> list[float]:
    """Return the features of a test picture with colours and steps, so that they depend on size, colours and resampling."""
    rows, columns = np.mgrid[0:48, 0:64]
    pixels = np.stack([4 * columns, 5 * rows, 255 * ((rows // 7 + columns // 5) % 2)], axis=-1).clip(0, 255).astype(np.uint8)
    name = "the test picture"
    return compute(features, [open_picture(pixels, name)], [name])[0].tolist()  # type: ignore[no-any-return]


def _as_vector(given: Any, inputs: int, name: str) -> np.ndarray:
    try:
        vector = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: an image vector must contain numbers, found {given!r:.60}") from error
    if vector.shape != (inputs,):
        raise DataError(f"{name}: expected an image vector of {inputs} numbers, found an array {list(vector.shape)}")
    return vector
