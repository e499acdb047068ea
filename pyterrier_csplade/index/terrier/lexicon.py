"""Writes the lexicon: entries of fixed size in the order of their terms, and the range of entries of each first character."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pyterrier_csplade.vectors.vocabulary import MAX_TERM_BYTES

from .inverted import TermStatistics

# A TIntObjectHashMap<int[]> of GNU Trove as serialised by Java: the head with the two classes, and the class of arrays.
_MAP = bytes.fromhex("aced00057372001b") + b"gnu.trove.TIntObjectHashMap" + bytes.fromhex("00000000000000010c000078720012")
_MAP += b"gnu.trove.TIntHash" + bytes.fromhex("493b769ffa631f270200014c0010") + b"_hashingStrategy"
_MAP += bytes.fromhex("74001f") + b"Lgnu/trove/TIntHashingStrategy;" + bytes.fromhex("787077")
_ARRAY = bytes.fromhex("757200025b494dba602676eab2a5020000787000000002")
_NEXT_ARRAY = bytes.fromhex("7571007e000400000002")


def lexicon_entry(size: int) -> np.dtype:
    """Return the type of an entry; ``size`` is the number of bytes reserved for a term."""
    numbers = [(name, ">i4") for name in ("id", "tokens", "documents", "largest")]
    return np.dtype([("length", "u1"), ("text", "u1", (size,)), *numbers, ("byte", ">i8"), ("bit", "i1")])


def write_lexicon(terms: Sequence[str], statistics: TermStatistics, directory: Path) -> None:
    """Write the entries of all terms, numbered in their order, and the shortcut by first characters.

    The terms have 1 to 60 bytes of UTF-8, and are sorted by these bytes.
    """
    entries = np.zeros(len(terms), dtype=lexicon_entry(MAX_TERM_BYTES))
    texts = [term.encode() for term in terms]
    entries["length"] = [len(text) for text in texts]
    padded = b"".join(text.ljust(MAX_TERM_BYTES, b"\0") for text in texts)
    entries["text"] = np.frombuffer(padded, np.uint8).reshape(-1, MAX_TERM_BYTES)
    entries["id"] = np.arange(len(terms))
    entries["tokens"] = statistics.tokens.astype(np.int32)  # above 2**31 - 1 it wraps around, as Java's int does
    entries["documents"] = statistics.documents
    entries["largest"] = statistics.largest
    entries["byte"], entries["bit"] = statistics.positions >> 3, statistics.positions & 7
    (directory / "data.lexicon.fsomapfile").write_bytes(entries.tobytes())
    bounds: dict[int, tuple[int, int]] = {}
    for number, term in enumerate(terms):
        first = ord(term[0])
        bounds[first] = bounds.get(first, (number, 0))[0], number + 1
    (directory / "data.lexicon.fsomaphash").write_bytes(first_characters(bounds))


def first_characters(bounds: Mapping[int, tuple[int, int]]) -> bytes:
    """Serialise the map of each first character to the entries that start with it: the first, and the one after the last."""
    content = [_MAP]
    array = _ARRAY
    for place, (character, (first, end)) in enumerate(bounds.items()):
        # Primitive values are in blocks with their length; the first block also has the version and the size of the map.
        block = struct.pack(">i", character) if place else struct.pack(">Bii", 0, len(bounds), character)
        content.append((b"w" if place else b"") + bytes([len(block)]) + block + array + struct.pack(">ii", first, end))
        array = _NEXT_ARRAY
    return b"".join([*content, b"x"])
