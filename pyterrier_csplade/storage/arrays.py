"""Files of named arrays with checksums, mapped into memory; an incomplete file cannot be opened."""

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

from .files import needing, parse_json, reserve

_FORMAT = 1
_MAGIC = b"CSPLADE\x01"
# The file ends with the length of the JSON footer, its SHA-256, and the magic number.
_TRAILER = 8 + 32 + len(_MAGIC)
# Arrays start at multiples of a cache line.
_ALIGNMENT = 64

_REMEDY = "remove it and open the index again, which builds it"


class ArrayWriter:
    """Writes arrays one after another, then a footer that describes them; a file without its footer cannot be opened.

    Arrays are filled in place, so they may be larger than the memory. Write to a temporary name, and rename the file after
    :meth:`finish` has returned.
    """

    def __init__(self, path: Path) -> None:
        """Create an empty file.

        Raises:
            FileExistsError: The path exists, even as a link.
        """
        self.path = path
        self._arrays: dict[str, tuple[np.ndarray, int, bool]] = {}
        self._size = 0
        # One handle for all writes: if the directory were replaced meanwhile, the path would name another file.
        self._file = path.open("x+b")

    def allocate(
        self, name: str, shape: int | tuple[int, ...], dtype: np.typing.DTypeLike, *, digest: bool = True
    ) -> np.ndarray:
        """Append an array of zeros, and return it to be filled before :meth:`finish`.

        Without ``digest``, opening the file does not compare the array's SHA-256, and only :meth:`ArrayFile.verify` reads the
        whole array: the reader must check what it reads.

        Raises:
            OSError: The disk is full.
        """
        shape = (shape,) if isinstance(shape, int) else shape
        start = -(-self._size // _ALIGNMENT) * _ALIGNMENT
        array: np.ndarray
        if math.prod(shape) == 0:
            array = np.zeros(shape, dtype)
        else:
            end = start + math.prod(shape) * np.dtype(dtype).itemsize
            reserve(self._file, self.path, end)
            array = np.memmap(self._file, dtype, "r+", offset=start, shape=shape)
            self._size = end
        self._arrays[name] = array, start, digest
        return array

    def add(self, name: str, values: np.ndarray) -> None:
        """Append an array from memory."""
        self.allocate(name, values.shape, values.dtype)[...] = values

    def finish(self, metadata: dict[str, Any]) -> None:
        """Write the footer with metadata that JSON can represent, and flush the file to the disk."""
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
        with needing(self._size + len(footer) + _TRAILER, self.path), self._file as file:
            file.seek(0, os.SEEK_END)
            file.write(footer + len(footer).to_bytes(8, "little") + hashlib.sha256(footer).digest() + _MAGIC)
            file.flush()
            os.fsync(file.fileno())


class ArrayFile:
    """A file that :class:`ArrayWriter` wrote, open for reading.

    The arrays are read-only. They stay valid if another file replaces this one. The author of a crafted file may have computed
    the digests, too: check shapes, types and values with :meth:`array` and :meth:`require` before using them.

    Attributes:
        path: The path from which the file was opened.
        metadata: The metadata from the footer.
    """

    def __init__(self, path: Path, *, memory: bool = False) -> None:
        """Map a file, or read it into memory, and compare the digests of the arrays that were written with ``digest=True``.

        Raises:
            FileNotFoundError: There is no file.
            ImpactIndexError: The file is truncated, has changed, or is from another version.
        """
        self.path = path
        with path.open("rb") as file:
            footer, size = _read_footer(file, path)
            file.seek(0)
            # The footer makes sure that the length is not 0, which mmap refuses.
            self._buffer: Any = file.read() if memory else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self.metadata: dict[str, Any] = dict(footer["metadata"])
            self._entries: dict[str, dict[str, Any]] = dict(footer["arrays"])
            self._arrays = {name: self._view(name, entry, size) for name, entry in self._entries.items()}
            self._check([name for name, entry in self._entries.items() if entry["digest_on_opening"]])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self.changed("footer") from error

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def array(self, name: str, dtype: np.typing.DTypeLike, *shape: int | None) -> np.ndarray:
        """Return an array of a type, or of any unsigned type for ``np.unsignedinteger``; None in a shape stands for any length.

        Raises:
            ImpactIndexError: There is no such array, or it has another type or shape.
        """
        array = self._arrays.get(name)
        self.require(array is not None and np.issubdtype(array.dtype, dtype) and array.dtype.isnative, name)
        assert array is not None
        fits = len(shape) == array.ndim and all(n in (None, length) for n, length in zip(shape, array.shape))
        self.require(fits, name)
        return array

    def require(self, condition: object, what: str) -> None:
        """Raise the error for a changed part of the file unless a condition holds."""
        if not condition:
            raise self.changed(what)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def verify(self) -> None:
        """Compare the SHA-256 of every array. Reads the whole file.

        Raises:
            ImpactIndexError: An array has changed.
        """
        self._check(self._entries)

    def changed(self, what: str) -> ImpactIndexError:
        """Return the error for a changed part of the file."""
        return ImpactIndexError(f"{self.path} has changed since it was written ({what}): {_REMEDY}")

    def _view(self, name: str, entry: dict[str, Any], size: int) -> np.ndarray:
        dtype, shape, start = np.dtype(entry["dtype"]), tuple(entry["shape"]), entry["start"]
        self.require(dtype.kind in "iuf" and all(type(n) is int and n >= 0 for n in (*shape, start)), name)
        count = math.prod(shape)
        self.require(start % _ALIGNMENT == 0 and start + count * dtype.itemsize <= size, name)
        array: np.ndarray = np.frombuffer(self._buffer, dtype, count, start) if count else np.zeros(0, dtype)
        return array.reshape(shape)

    def _check(self, names: Iterable[str]) -> None:
        for name in names:
            if _sha256(self._arrays[name]) != self._entries[name]["sha256"]:
                raise self.changed(name)


def _read_footer(file: IO[bytes], path: Path) -> tuple[dict[str, Any], int]:
    """Return the footer, and the number of bytes before it."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _TRAILER))
    trailer = file.read(_TRAILER)
    length = int.from_bytes(trailer[:8], "little")
    start = size - _TRAILER - length
    if len(trailer) < _TRAILER or not trailer.endswith(_MAGIC) or start < 0:
        raise ImpactIndexError(f"{path} is truncated, or was not written by this package: {_REMEDY}")
    file.seek(start)
    footer = file.read(length)
    if hashlib.sha256(footer).digest() != trailer[8:40]:
        raise ImpactIndexError(f"{path} has changed since it was written (footer): {_REMEDY}")
    try:
        values: dict[str, Any] = parse_json(footer)
        if values["format"] == _FORMAT:
            return values, start
    except (ValueError, KeyError, TypeError) as error:
        raise ImpactIndexError(f"{path} has changed since it was written (footer): {_REMEDY}") from error
    raise ImpactIndexError(f"{path} has another format: {_REMEDY}")


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


class StringTable(Sequence[str]):
    """Strings of an :class:`ArrayFile`, stored as their UTF-8 bytes and the offset of each.

    Strings that were read stay in memory, because searches return the same documents again and again.
    """

    def __init__(self, file: ArrayFile, name: str) -> None:
        """Open a table that :class:`PackedStrings` wrote.

        Raises:
            ImpactIndexError: There is no such table, or its offsets are wrong.
        """
        self._file, self._name = file, name
        self._text, self._starts = file.array(f"{name}.text", np.uint8, None), file.array(f"{name}.starts", np.int64, None)
        file.require(are_starts(self._starts, len(self._text)), name)
        self._kept = np.empty(len(self), dtype=object)
        self._is_kept = np.zeros(len(self), dtype=bool)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        return next(self._read(np.array([range(len(self))[i]])))

    def __iter__(self) -> Iterator[str]:
        return self._read(np.arange(len(self)))

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return the strings with the given numbers, as an array of objects."""
        missing = ids[~self._is_kept[ids]]
        if len(missing):
            missing = np.unique(missing)
            self._kept[missing] = list(self._read(missing))
            self._is_kept[missing] = True  # last, because other threads may read
        strings: np.ndarray = self._kept[ids]
        return strings

    def _read(self, ids: np.ndarray) -> Iterator[str]:
        text = self._text.data
        try:
            for start, end in zip(self._starts[ids].tolist(), self._starts[ids + 1].tolist()):
                yield str(text[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise self._file.changed(self._name) from error


def are_starts(starts: np.ndarray, total: int) -> bool:
    """Whether an array contains the start of each run of ``total`` elements, followed by ``total``."""
    return bool(len(starts) and starts[0] == 0 and starts[-1] == total and (starts[1:] >= starts[:-1]).all())


class PackedStrings:
    """Strings to be written to a file; each takes its UTF-8 bytes and 8 more."""

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
        """Append the strings to a file, for :class:`StringTable`."""
        writer.add(f"{name}.text", np.frombuffer(self._text, np.uint8))
        writer.add(f"{name}.starts", np.frombuffer(self._starts, np.int64))
