"""Pairs of a picture and its caption: read from a file, and encoded once by the frozen models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.data.jsonl import read_jsonl
from pyterrier_csplade.images.features import Features, check_vectors, compute
from pyterrier_csplade.images.pictures import LOADING, open_picture
from pyterrier_csplade.model.csplade import CSPLADE
from pyterrier_csplade.storage.files import sha256
from pyterrier_csplade.training.own_tokens import OwnTokenFinder
from pyterrier_csplade.vectors.checks import check_texts

from .kept import as_arrays, as_matrices, kept

# Number of pictures in a batch of features; our choice (not measured).
_BATCH = 32


@dataclass(frozen=True)
class Pair:
    """A picture and its caption.

    Attributes:
        where: File and line, for messages.
        caption: The caption.
        picture: Path of the picture; None if there is a vector.
        vector: The image vector; None if there is a picture.
        teacher: A dense teacher's vectors of the caption and the picture; None without a teacher.
    """

    where: str
    caption: str
    picture: Path | None
    vector: np.ndarray | None
    teacher: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class Pairs:
    """Encoded pairs. Row i of each array and matrix belongs to pair i.

    Attributes:
        vectors: Image vectors, float32 [pairs, inputs].
        queries: The text model's query vectors of the captions, [pairs, terms].
        documents: The text model's document vectors of the captions, [pairs, terms].
        own: Number of occurrences of each own word of the captions, [pairs, terms].
        same: Number of the caption, the same for equal captions, int64 [pairs].
        teacher: A dense teacher's unit vectors of the captions and of the pictures; None without a teacher.
    """

    vectors: np.ndarray
    queries: csr_matrix
    documents: csr_matrix
    own: csr_matrix
    same: np.ndarray
    teacher: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.vectors)


def read_pairs(path: str, *, with_teacher: bool = False) -> list[Pair]:
    """Read pairs from a JSONL file.

    Args:
        path: The file.
        with_teacher: Whether every pair must have vectors of a dense teacher.

    Raises:
        DataError: A line cannot be used, or there are no lines; the message names file and line.
    """
    pairs = [_pair(row, f"{path}, line {number}", Path(path).parent, with_teacher) for number, row in read_jsonl(path)]
    if not pairs:
        raise DataError(f"{path} has no pairs")
    with_vectors = [pair.vector is not None for pair in pairs]
    if any(with_vectors) and not all(with_vectors):
        raise DataError(f"{pairs[with_vectors.index(False)].where}: image_vec is missing, but other lines have it")
    for what in (lambda pair: pair.vector, lambda pair: pair.teacher and np.concatenate(pair.teacher)):
        _check_lengths(pairs, what)
    return pairs


def encode_pairs(pairs: list[Pair], model: CSPLADE, features: Features | None, cache: str | None = None) -> Pairs:
    """Encode pairs, with progress: features of the pictures, query and document vectors of the captions.

    Args:
        pairs: The pairs.
        model: The text model.
        features: Features of the pictures; None for pairs with vectors.
        cache: Directory in which features and vectors of captions are kept; None keeps nothing.

    Raises:
        DataError: A picture or a caption cannot be used; the message names file and line.
    """
    numbers: dict[str, int] = {}
    teacher = None
    if pairs[0].teacher is not None:
        sides = (np.stack([pair.teacher[side] for pair in pairs if pair.teacher]) for side in (0, 1))
        text, picture = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in sides)
        teacher = text, picture
    return Pairs(
        vectors=_image_vectors(pairs, features, cache),
        **_encoded_captions(pairs, model, cache),
        same=np.array([numbers.setdefault(pair.caption, len(numbers)) for pair in pairs]),
        teacher=teacher,
    )


def _encoded_captions(pairs: list[Pair], model: CSPLADE, cache: str | None) -> dict[str, csr_matrix]:
    captions, names = [pair.caption for pair in pairs], [pair.where for pair in pairs]

    def encode() -> dict[str, np.ndarray]:
        sequences = model.backbone.tokenize(captions, "document", names=names)[0]
        return as_arrays(
            {
                "queries": model.encode_queries(captions, names=names, verbose=True),
                "documents": model.encode_docs(captions, names=names, verbose=True),
                "own": OwnTokenFinder(model.backbone)(sequences, "document").matrix(len(pairs), len(model.vocabulary)),
            }
        )

    key = [{**model.contract.to_dict(), "training": {}}, captions]
    return as_matrices(kept(cache, "captions", key, encode), ("queries", "documents", "own"))


def _image_vectors(pairs: list[Pair], features: Features | None, cache: str | None) -> np.ndarray:
    names = [pair.where for pair in pairs]
    if pairs[0].vector is not None:
        if features is not None:
            raise DataError(f"{names[0]} has image_vec: remove the setting features, or replace image_vec with image")
        vectors = np.stack([pair.vector for pair in pairs if pair.vector is not None])
        check_vectors(vectors, names)
        return vectors
    if features is None:
        raise DataError(f"{names[0]} has a picture, but there is no setting features: name an image encoder")
    files = [
        str(pair.picture) if pair.picture is None or not pair.picture.is_file() else sha256(pair.picture) for pair in pairs
    ]
    key = [features.identity, LOADING, files]
    return kept(cache, "features", key, lambda: {"vectors": np.concatenate(list(_computed(pairs, features)))})["vectors"]


def _computed(pairs: list[Pair], features: Features) -> Iterator[np.ndarray]:
    for start in pt.tqdm(range(0, len(pairs), _BATCH), desc="image features", unit="batch"):
        part = pairs[start : start + _BATCH]
        pictures = [open_picture(pair.picture, pair.where) for pair in part]
        yield compute(features, pictures, [pair.where for pair in part])


def _pair(row: dict[str, Any], where: str, folder: Path, with_teacher: bool) -> Pair:
    caption, picture, vector = row.get("caption"), row.get("image"), row.get("image_vec")
    if not isinstance(caption, str) or not caption.strip():
        raise DataError(f"{where}: caption must be a non-empty text, found {caption!r:.60}")
    check_texts([caption], [f"{where}: caption"])
    if (picture is None) == (vector is None):
        raise DataError(f"{where}: give image, the path of a picture, or image_vec, a list of numbers")
    if picture is not None and not isinstance(picture, str):
        raise DataError(f"{where}: image must be a path, found {picture!r:.60}")
    teacher = None
    if with_teacher:
        teacher = _numbers(row, "teacher_caption", where), _numbers(row, "teacher_image", where)
        if len(teacher[0]) != len(teacher[1]):
            raise DataError(f"{where}: teacher_caption has {len(teacher[0])} numbers, teacher_image {len(teacher[1])}")
    path = None if picture is None else folder / picture
    return Pair(where, caption, path, None if vector is None else _numbers(row, "image_vec", where), teacher)


def _numbers(row: dict[str, Any], key: str, where: str) -> np.ndarray:
    try:
        vector = np.asarray(row.get(key), dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, dtype=np.float32)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise DataError(f"{where}: {key} must be a list of finite numbers, found {row.get(key)!r:.60}")
    return vector


def _check_lengths(pairs: list[Pair], what: Any) -> None:
    lengths = [None if what(pair) is None else len(what(pair)) for pair in pairs]
    for pair, length in zip(pairs, lengths):
        if length != lengths[0]:
            raise DataError(f"{pair.where}: a vector has {length} numbers, but the vector on the first line has {lengths[0]}")
