"""Many strings as two arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ._arrays import ArrayFile, ArrayWriter


class StringTable(Sequence[str]):
    """Strings of an :class:`ArrayFile`: UTF-8 one after another, and where each starts."""

    def __init__(self, file: ArrayFile, name: str) -> None:
        """Open the table that :func:`write_strings` wrote under a name."""
        self._text, self._starts = file[f"{name}.text"], file[f"{name}.starts"]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        return self.take([i])[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.take(range(len(self))))

    def take(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Return some strings, in the order of their numbers."""
        ids = np.asarray(ids, dtype=np.int64)
        bounds = zip(self._starts[ids].tolist(), self._starts[ids + 1].tolist())
        text = self._text.data
        return [str(text[start:end], "utf-8") for start, end in bounds]


def write_strings(writer: ArrayWriter, name: str, strings: Iterable[str]) -> None:
    """Append strings to a file."""
    text, starts = bytearray(), [0]
    for string in strings:
        text += string.encode()
        starts.append(len(text))
    writer.add(f"{name}.text", np.frombuffer(bytes(text), np.uint8))
    writer.add(f"{name}.starts", np.array(starts, np.int64))
