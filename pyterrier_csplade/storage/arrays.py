"""A file of named arrays that is mapped into memory: checksummed, and never opened half."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from pyterrier_csplade._errors import ImpactIndexError

_FORMAT = 1
_MAGIC = b"CSPLADE\x01"
# The file ends with the length of the JSON footer, its SHA-256, and the magic number.
_TRAILER = 8 + 32 + len(_MAGIC)
# Arrays start at multiples of a cache line.
_ALIGNMENT = 64


class ArrayWriter:
    """Writes arrays one after another, then a footer that describes them; a file without its footer does not open.

    Arrays are filled in place, so that they may be larger than the memory. Write to a temporary name, and rename the file when
    :meth:`finish` has returned.
    """

    def __init__(self, path: Path) -> None:
        """Create an empty file."""
        self.path = path
        self._arrays: dict[str, tuple[np.ndarray, int, bool]] = {}
        self._size = 0
        # One handle for everything: the directory may be replaced by another meanwhile, in which the path would be a new file.
        self._file = path.open("w+b")

    def allocate(
        self, name: str, shape: int | tuple[int, ...], dtype: np.typing.DTypeLike, *, digest: bool = True
    ) -> np.ndarray:
        """Append an array of zeros.

        Args:
            name: Its name.
            shape: Its shape.
            dtype: Its type.
            digest: Whether opening the file shall compare the array's SHA-256. Without, whoever reads the array checks it; only
                :meth:`ArrayFile.verify` reads it whole.

        Returns:
            The array, to be filled before :meth:`finish`.
        """
        shape = (shape,) if isinstance(shape, int) else shape
        start = -(-self._size // _ALIGNMENT) * _ALIGNMENT
        array: np.ndarray
        if math.prod(shape) == 0:
            array = np.zeros(shape, dtype)
        else:
            array = np.memmap(self._file, dtype, "r+", offset=start, shape=shape)  # extends the file
            self._size = start + array.nbytes
        self._arrays[name] = array, start, digest
        return array

    def add(self, name: str, values: np.ndarray) -> None:
        """Append an array that is in memory."""
        self.allocate(name, values.shape, values.dtype)[...] = values

    def finish(self, metadata: dict[str, Any]) -> None:
        """Write the footer and bring the file to the disk.

        Args:
            metadata: What else the footer shall hold, JSON.
        """
        entries = {}
        for name, (values, start, digest) in self._arrays.items():
            if isinstance(values, np.memmap):
                values.flush()
            entries[name] = {
                "dtype": values.dtype.str,
                "shape": list(values.shape),
                "start": start,
                "digest_on_opening": digest,
                "sha256": _sha256(values),
            }
        self._arrays = {}
        footer = json.dumps({"format": _FORMAT, "arrays": entries, "metadata": metadata}, ensure_ascii=False).encode()
        with self._file as file:
            file.seek(0, os.SEEK_END)
            file.write(footer + len(footer).to_bytes(8, "little") + hashlib.sha256(footer).digest() + _MAGIC)
            file.flush()
            os.fsync(file.fileno())


class ArrayFile:
    """A file that :class:`ArrayWriter` wrote, open to be read.

    All arrays belong to the file that stood at the path when it was opened, whatever is put there later. They are read-only.

    Attributes:
        path: Where it stood.
        metadata: What the writer added.
    """

    def __init__(self, path: Path, *, memory: bool = False) -> None:
        """Open a file, and compare the digests of the arrays that nobody checks later.

        Args:
            path: The file.
            memory: Whether to read it into memory instead of mapping it.

        Raises:
            FileNotFoundError: There is none.
            ImpactIndexError: It is cut off or has changed, or is of another version.
        """
        self.path = path
        with path.open("rb") as file:
            footer, size = _read_footer(file, path)
            file.seek(0)
            # A map of length 0 is an error; the footer is never empty.
            self._buffer: Any = file.read() if memory else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.metadata: dict[str, Any] = footer["metadata"]
        self._entries: dict[str, dict[str, Any]] = footer["arrays"]
        self._arrays = {name: self._view(name, entry, size) for name, entry in self._entries.items()}
        self._check(name for name, entry in self._entries.items() if entry["digest_on_opening"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def verify(self) -> None:
        """Compare the SHA-256 of every array. Reads the whole file.

        Raises:
            ImpactIndexError: An array has changed.
        """
        self._check(self._entries)

    def changed(self, what: str) -> ImpactIndexError:
        """Return the error that says that a part of the file has changed."""
        return ImpactIndexError(
            f"{self.path} has changed since it was written ({what}): remove it and open the index again: it will be built"
        )

    def _view(self, name: str, entry: dict[str, Any], size: int) -> np.ndarray:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        count = math.prod(shape)
        if entry["start"] + count * dtype.itemsize > size:
            raise self.changed(name)
        array: np.ndarray = np.frombuffer(self._buffer, dtype, count, entry["start"]) if count else np.zeros(0, dtype)
        return array.reshape(shape)

    def _check(self, names: Any) -> None:
        for name in names:
            if _sha256(self._arrays[name]) != self._entries[name]["sha256"]:
                raise self.changed(name)


def _read_footer(file: IO[bytes], path: Path) -> tuple[dict[str, Any], int]:
    """Return the footer, and the bytes before it."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _TRAILER))
    trailer = file.read(_TRAILER)
    length = int.from_bytes(trailer[:8], "little")
    start = size - _TRAILER - length
    if len(trailer) < _TRAILER or not trailer.endswith(_MAGIC) or start < 0:
        raise ImpactIndexError(
            f"{path} is cut off or not of this package: remove it and open the index again: it will be built"
        )
    file.seek(start)
    footer = file.read(length)
    if hashlib.sha256(footer).digest() != trailer[8:40]:
        raise ImpactIndexError(
            f"{path} has changed since it was written (footer): remove it and open the index again: it will be built"
        )
    values: dict[str, Any] = json.loads(footer)
    if values["format"] != _FORMAT:
        raise ImpactIndexError(f"{path} is of another format: remove it and open the index again: it will be built")
    return values, start


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


class StringTable(Sequence[str]):
    """Strings of an :class:`ArrayFile`: UTF-8 one after another, and where each starts.

    Strings that were taken are kept, for the same documents are found again and again.
    """

    def __init__(self, file: ArrayFile, name: str) -> None:
        """Open the table that :class:`PackedStrings` wrote under a name."""
        self._text, self._starts = file[f"{name}.text"], file[f"{name}.starts"]
        self._taken = np.empty(len(self), dtype=object)
        self._is_taken = np.zeros(len(self), dtype=bool)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        return next(self._read(np.array([range(len(self))[i]])))

    def __iter__(self) -> Iterator[str]:
        return self._read(np.arange(len(self)))

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return some strings, in the order of their numbers, in an array of objects."""
        missing = ids[~self._is_taken[ids]]
        if len(missing):
            missing = np.unique(missing)
            self._taken[missing] = list(self._read(missing))
            self._is_taken[missing] = True  # only then: other threads may read
        taken: np.ndarray = self._taken[ids]
        return taken

    def _read(self, ids: np.ndarray) -> Iterator[str]:
        text = self._text.data
        bounds = zip(self._starts[ids].tolist(), self._starts[ids + 1].tolist())
        return (str(text[start:end], "utf-8") for start, end in bounds)


class PackedStrings:
    """Many strings on their way to a file, in their bytes and 8 more each."""

    def __init__(self, strings: Iterable[str] = ()) -> None:
        """Pack strings."""
        self._text, self._starts = bytearray(), array("q", [0])
        self.extend(strings)

    def extend(self, strings: Iterable[str]) -> None:
        """Append strings."""
        for string in strings:
            self._text += string.encode()
            self._starts.append(len(self._text))

    def write(self, writer: ArrayWriter, name: str) -> None:
        """Append the strings to a file, where :class:`StringTable` finds them."""
        writer.add(f"{name}.text", np.frombuffer(self._text, np.uint8))
        writer.add(f"{name}.starts", np.frombuffer(self._starts, np.int64))
