"""Checks of the files of an index from which Java creates objects: one names classes, and one contains an object.

A manifest does not protect against its author. Both files are therefore compared with what this package writes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade.vectors.vocabulary import MAX_TERM_BYTES

from .lexicon import first_characters, lexicon_entry
from .properties import NUMBERS, fixed_properties

_OF_META = (
    "entries", "key-names", "value-lengths", "entry-length", "value-sorted", "reverse-key-names", "data-source", "index-source",
)  # fmt: skip
# Properties whose values differ between indexes, and name no classes.
_OTHERS = {*NUMBERS, *(f"index.meta.{name}" for name in _OF_META)}
# A line as this package writes it: Java's continuation lines, other separators and escapes in names could hide a property.
_LINE = re.compile(r"([A-Za-z._-]+)=((?:[!-\[\]-~]|\\u[0-9a-f]{4})*)")


def check_java_files(directory: Path) -> None:
    """Check the files of an index from which Java would create objects.

    Args:
        directory: The directory of an index that :class:`ImpactIndex` has built.

    Raises:
        ImpactIndexError: A file contains something that this package does not write; the message names it.
    """
    try:
        _check_properties(directory / "data.properties")
        _check_characters(directory)
    except OSError as error:
        raise ImpactIndexError(f"{directory} cannot be read ({error.strerror}): build or copy the index again") from error


def _check_properties(path: Path) -> None:
    expected = fixed_properties()
    for number, line in enumerate(path.read_text(encoding="latin-1").removesuffix("\n").split("\n"), start=1):
        found = _LINE.fullmatch(line)
        name, value = found.groups() if found else ("", "")
        known = value == expected[name] if name in expected else name in _OTHERS
        if not known:
            raise ImpactIndexError(
                f"{path}, line {number}: {line[:80]!r} is not written by ImpactIndex, but Java would act on it: build or copy "
                "the index again"
            )


def _check_characters(directory: Path) -> None:
    path, lexicon = directory / "data.lexicon.fsomaphash", directory / "data.lexicon.fsomapfile"
    entry = lexicon_entry(MAX_TERM_BYTES)
    if lexicon.stat().st_size % entry.itemsize:
        raise ImpactIndexError(f"{lexicon} is damaged: build or copy the index again")
    starts = np.fromfile(lexicon, entry)["text"][:, :4].copy()
    # In UTF-8, the first byte of a character determines its number of bytes.
    lengths = 1 + (starts[:, :1] >= [0xC0, 0xE0, 0xF0]).sum(axis=1)
    starts[np.arange(4) >= lengths[:, None]] = 0
    changes = np.flatnonzero((starts[1:] != starts[:-1]).any(axis=1)) + 1
    bounds = np.concatenate([[0], changes, [len(starts)]]).tolist()
    try:
        characters = [starts[place, : lengths[place]].tobytes().decode() for place in bounds[:-1]]
        expected = first_characters({ord(c): (a, b) for c, a, b in zip(characters, bounds, bounds[1:])})
    except (UnicodeDecodeError, TypeError, IndexError) as error:
        raise ImpactIndexError(f"{lexicon} is damaged: build or copy the index again") from error
    if path.read_bytes() != expected:
        raise ImpactIndexError(
            f"{path} differs from what ImpactIndex writes for this lexicon, but Java would create objects from it: build or "
            "copy the index again"
        )
