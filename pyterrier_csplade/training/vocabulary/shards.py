"""Rewriting of safetensors files piece by piece. Only tables of tokens change; everything else is copied byte by byte.

The format (https://huggingface.co/docs/safetensors) is the length of the header (8 bytes, little-endian), the header as JSON,
and the bytes of the tensors. The library safetensors writes whole files only, and a file of a large model may not fit into
memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from pyterrier_csplade._errors import ContractError

# Number of bytes to copy at once; our choice (not measured).
_PIECE = 2**24


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: The file.
        offset: Where its bytes begin.
        dtype: Its type, as the format spells it (``BF16``).
        shape: Its shape.
        size: Number of its bytes.
    """

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    size: int

    def rows(self, ids: np.ndarray) -> Iterator[bytes]:
        """Yield the bytes of rows, several rows at a time."""
        width = self.size // self.shape[0]
        table = np.memmap(self.file, dtype=np.uint8, mode="r", offset=self.offset, shape=(self.shape[0], width))
        step = max(1, _PIECE // width)
        for start in range(0, len(ids), step):
            yield table[ids[start : start + step]].tobytes()

    def equals(self, other: Stored) -> bool:
        """Return whether two tensors have the same dtype, shape and bytes."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        return all(first == second for first, second in zip(self.pieces(), other.pieces()))

    def pieces(self) -> Iterator[bytes]:
        """Yield all bytes."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.size, _PIECE):
                yield file.read(min(_PIECE, self.size - start))


#: A function that makes the rows of a tensor with another number of rows.
Rewrite = Callable[[Stored], Iterable[bytes]]


def read_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """List the tensors of a model's files.

    Raises:
        ContractError: A file is damaged.
    """
    found: dict[str, Stored] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ContractError(f"{file} is damaged ({error}): copy it again") from error
        header, start = _header(file)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            found[name] = Stored(file, start + begin, entry["dtype"], tuple(entry["shape"]), end - begin)
    return found


def _header(file: Path) -> tuple[dict[str, Any], int]:
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8))[0]
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def rewrite(
    tensors: Mapping[str, Stored], output: Path, changes: Mapping[str, Rewrite], rows: int, dropped: Iterable[str] = ()
) -> None:
    """Write the files of a model again, with the same division of tensors into files.

    Args:
        tensors: The tensors, from :func:`read_tensors`.
        output: Directory of the new files, which get the names of the old ones.
        changes: Functions that make the rows of the changed tensors.
        rows: Number of rows of the changed tensors.
        dropped: Names of tensors to leave out.
    """
    left = {name: stored for name, stored in tensors.items() if name not in set(dropped)}
    sizes = {name: stored.size // stored.shape[0] * rows if name in changes else stored.size for name, stored in left.items()}
    files = sorted({stored.file for stored in left.values()})
    for file in files:
        _write(output / file.name, {name: stored for name, stored in left.items() if stored.file == file}, sizes, changes, rows)
    if len(files) > 1 or files[0].name != "model.safetensors":
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {name: stored.file.name for name, stored in sorted(left.items())},
        }
        (output / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write(
    path: Path, tensors: Mapping[str, Stored], sizes: Mapping[str, int], changes: Mapping[str, Rewrite], rows: int
) -> None:
    ordered = sorted(tensors, key=lambda name: tensors[name].offset)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in ordered:
        stored = tensors[name]
        shape = [rows, *stored.shape[1:]] if name in changes else list(stored.shape)
        header[name] = {"dtype": stored.dtype, "shape": shape, "data_offsets": [place, place := place + sizes[name]]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in ordered:
            before = file.tell()
            for piece in changes[name](tensors[name]) if name in changes else tensors[name].pieces():
                file.write(piece)
            if file.tell() - before != sizes[name]:
                raise ContractError(f"{tensors[name].file}: the tensor {name} ended early: copy the file again")
