"""Terrier's bit compression of postings, from arrays."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

# Maximum numbers of postings and bits that are coded together, to fit the processor's cache; our choice (not measured).
_PIECE = 2**17
_PIECE_BITS = 2**26


class PostingFile:
    """Writes lists of postings one after another, as Terrier's ``DirectInvertedOutputStream`` does.

    A posting is the gap to the previous id (at the start of a list, the id plus one) in Elias' gamma code, followed by the
    impact in unary code: zeros, one fewer than the impact, then a one. Bits fill each byte from the highest.
    """

    def __init__(self, path: Path) -> None:
        """Create the file."""
        self._file: BinaryIO = path.open("wb")
        self._bits = 0  # written in all
        self._rest = 0  # the last byte while it is not full

    def write(self, ids: np.ndarray, impacts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Append lists of postings.

        Args:
            ids: Integers [postings] from 0 to 2**31 - 2, ascending within each list.
            impacts: Integers [postings], at least 1.
            lengths: Number of postings of each list, [lists].

        Returns:
            int64 array [lists], the bit at which each list starts; 0 for empty lists, as in Terrier.
        """
        starts = np.cumsum(lengths) - lengths
        filled = np.flatnonzero(lengths)
        gaps = np.diff(ids.astype(np.int64), prepend=-1)
        gaps[starts[filled]] = ids[starts[filled]].astype(np.int64) + 1
        # frexp returns the number of binary digits.
        widths = 2 * np.frexp(gaps.astype(np.float64))[1].astype(np.int64) - 1
        ends = np.cumsum(widths + impacts)
        positions = np.zeros(len(lengths), dtype=np.int64)
        at = starts[filled]
        positions[filled] = self._bits + ends[at] - widths[at] - impacts[at]
        self._write_pieces(gaps, widths, ends)
        return positions

    def close(self) -> None:
        """Write the last byte and, as Terrier does, a byte of zeros."""
        with self._file:
            self._file.write(bytes([self._rest] if self._bits % 8 else []) + b"\0")

    def _write_pieces(self, gaps: np.ndarray, widths: np.ndarray, ends: np.ndarray) -> None:
        done, start = 0, 0  # bits, postings
        while start < len(gaps):
            end = int(np.searchsorted(ends[start : start + _PIECE], done + _PIECE_BITS, side="right")) + start
            end = max(end, start + 1)
            self._write_piece(gaps[start:end], widths[start:end], ends[start:end] - done)
            done, start = int(ends[end - 1]), end

    def _write_piece(self, gaps: np.ndarray, widths: np.ndarray, ends: np.ndarray) -> None:
        offset = self._bits % 8
        ends = ends + offset
        total = int(ends[-1])
        # A gamma code of n digits is the number itself in 2n - 1 bits. The bit before it ends the previous posting's impact.
        codes = gaps.astype(np.uint64)
        codes[1:] |= np.uint64(1) << widths[1:].astype(np.uint64)
        code_ends = np.empty_like(ends)
        code_ends[0], code_ends[1:] = offset + widths[0], ends[:-1] + widths[1:]
        words = np.zeros((total >> 6) + 1, dtype=np.uint64)
        words[0] = self._rest << 56
        word, shift = (code_ends - 1) >> 6, 63 - ((code_ends - 1) & 63)
        # No two codes share a bit, so adding is the same as setting.
        np.add.at(words, word, codes << shift.astype(np.uint64))
        split = np.flatnonzero(shift + widths >= 64)
        np.add.at(words, word[split] - 1, codes[split] >> (64 - shift[split]).astype(np.uint64))
        words[(total - 1) >> 6] += np.uint64(1) << np.uint64(63 - ((total - 1) & 63))
        content = words.astype(">u8").tobytes()
        self._file.write(content[: total >> 3])
        self._rest = content[total >> 3]
        self._bits += total - offset
