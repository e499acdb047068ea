"""Many strings as two arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ._arrays import ArrayFile, ArrayWriter


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
