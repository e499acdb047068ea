"""One shard of an encoded collection: a safetensors file of docnos and CSR arrays, and its record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import CollectionError
from pyterrier_csplade.storage.arrays import are_starts
from pyterrier_csplade.storage.files import parse_json, read_json

#: What to do about damage, in messages.
REMEDY = "encode again with the same command, which keeps the intact shards"

#: Counts that are added up over the shards of a collection.
TOTALS = ("documents", "empty", "truncated", "postings")

_TENSORS = {"docno_bytes", "docno_offsets", "indptr", "indices", "data"}
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "I32": np.int32, "I64": np.int64, "F32": np.float32}


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Description of a finished shard, in a small file that is written after the vectors.

    Attributes:
        shard: Number of the shard, from 0; its first document has the number ``shard * shard_size``.
        documents: Number of documents.
        empty: Number of documents whose vector is empty.
        truncated: Number of documents that were truncated to the maximum length.
        postings: Number of entries above 0 in the vectors.
        input_sha256: Digest of docnos and texts.
        size: Size of the vectors' file in bytes.
        sha256: Digest of the vectors' file.
        plan: Fingerprint of the recipe.
    """

    shard: int
    documents: int
    empty: int
    truncated: int
    postings: int
    input_sha256: str
    size: int
    sha256: str
    plan: str

    def to_json(self) -> bytes:
        """Return the content of the record's file."""
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> ShardRecord | None:
        """Read a record; None if it is missing or damaged, because the shard is then not finished."""
        try:
            values = read_json(path)
            return cls(**{f.name: {"int": int, "str": str}[str(f.type)](values[f.name]) for f in dataclasses.fields(cls)})
        except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
            return None


class EncodedShard(NamedTuple):
    """A shard that is ready to be written.

    Attributes:
        content: Content of the vectors' file.
        record: Description of the shard.
    """

    content: bytes
    record: ShardRecord


def shard_name(number: int) -> str:
    """Return the name of the vectors' file of a shard."""
    return f"shard-{number:06d}.safetensors"


def record_name(number: int) -> str:
    """Return the name of the record's file of a shard."""
    return f"shard-{number:06d}.json"


def pack(
    number: int, docnos: Sequence[str], matrix: csr_matrix, *, truncated: int, input_sha256: str, recipe: str
) -> EncodedShard:
    """Lay out a shard; equal vectors give equal bytes.

    ``matrix``, [documents, index terms], has float32 weights, or integer impacts, which are stored as uint16 if they fit.
    ``input_sha256`` is the digest of docnos and texts, and ``recipe`` the fingerprint of the recipe.
    """
    matrix.sort_indices()
    names = [docno.encode() for docno in docnos]
    data = matrix.data
    if data.dtype != np.float32:
        data = data.astype(np.uint16 if data.max(initial=0) < 2**16 else np.int32)
    content = safetensors.numpy.save(
        {
            "docno_bytes": np.frombuffer(b"".join(names), dtype=np.uint8),
            "docno_offsets": np.cumsum([0, *map(len, names)], dtype=np.int64),
            "indptr": matrix.indptr.astype(np.int64),
            "indices": matrix.indices.astype(np.int32),
            "data": data,
        }
    )
    record = ShardRecord(
        shard=number,
        documents=len(names),
        empty=int(np.count_nonzero(np.diff(matrix.indptr) == 0)),
        truncated=truncated,
        postings=matrix.nnz,
        input_sha256=input_sha256,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        plan=recipe,
    )
    return EncodedShard(content, record)


class ShardFile:
    """The vectors' file of a shard, mapped into memory.

    Attributes:
        path: The file.
        content: Its bytes.
    """

    def __init__(self, path: Path, terms: int) -> None:
        """Open a shard, whose matrix has ``terms`` columns.

        Raises:
            CollectionError: The file is missing, or not a shard.
        """
        self.path = path
        self._terms = terms
        try:
            arrays = _map(path)
            self.content = arrays["content"]
            self._offsets, self._names = arrays["docno_offsets"], arrays["docno_bytes"]
            self._indptr, self._indices, self._data = arrays["indptr"], arrays["indices"], arrays["data"]
            _check_rows(self._offsets, len(self._names))
            _check_rows(self._indptr, len(self._indices))
            if self._names.dtype != np.uint8 or self._indices.dtype != np.int32:
                raise ValueError("its arrays have other types")
            if len(self._offsets) != len(self._indptr) or len(self._data) != len(self._indices):
                raise ValueError("its arrays do not fit together")
        except FileNotFoundError as error:
            raise CollectionError(f"{path} is missing: {REMEDY}") from error
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise CollectionError(f"{path} is damaged ({error}): {REMEDY}") from error

    def __len__(self) -> int:
        return len(self._indptr) - 1

    @property
    def docnos(self) -> list[str]:
        """The docnos in the order of the rows.

        Raises:
            CollectionError: A docno is not UTF-8.
        """
        names, offsets = self._names.tobytes(), self._offsets.tolist()
        try:
            return [names[start:end].decode() for start, end in zip(offsets, offsets[1:])]
        except UnicodeDecodeError as error:
            raise CollectionError(f"{self.path} is damaged ({error}): {REMEDY}") from error

    def docno(self, row: int) -> str:
        """Return the docno of a row, after :attr:`docnos` has been read."""
        return self._names[self._offsets[row] : self._offsets[row + 1]].tobytes().decode()

    def rows(self, start: int, end: int) -> csr_matrix:
        """Return some vectors, [end - start, terms]: float32 weights or int32 impacts, columns ascending in each row.

        Raises:
            CollectionError: A column is out of range.
        """
        first, last = self._indptr[start], self._indptr[end]
        indices = np.array(self._indices[first:last])
        # With a column out of range, scipy would read memory outside the matrix.
        if len(indices) and not (0 <= indices.min() and indices.max() < self._terms):
            raise CollectionError(f"{self.path} is damaged (a column is out of range): {REMEDY}")
        data = np.array(self._data[first:last], dtype=np.float32 if self._data.dtype == np.float32 else np.int32)
        return csr_matrix((data, indices, self._indptr[start : end + 1] - first), shape=(end - start, self._terms))


def _map(path: Path) -> dict[str, np.ndarray]:
    """Map the tensors of a safetensors file instead of copying them, at the offsets in its header."""
    with safetensors.safe_open(path, framework="numpy") as file:  # checks the header
        if set(file.keys()) != _TENSORS:
            raise ValueError(f"it contains {', '.join(sorted(file.keys()))}")
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = parse_json(content[8:start].tobytes())
    arrays = {}
    for name in _TENSORS:
        first, last = header[name]["data_offsets"]
        arrays[name] = content[start + first : start + last].view(_DTYPES[header[name]["dtype"]])
    arrays["content"] = content
    return arrays


def _check_rows(offsets: np.ndarray, total: int) -> None:
    if offsets.dtype != np.int64 or not are_starts(offsets, total):
        raise ValueError("its offsets are out of order")
