"""Queries that documents suggest, for a query table where there are no others."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyterrier_csplade._errors import DataError

from .sources import Source

# A sentence ends with a mark of punctuation before a space, but not within so many characters ("Dr. Smith", "U.S. history");
# our choice (not measured).
_SENTENCE = re.compile(r".{20,}?[.!?](?=\s)", re.DOTALL)
# Words of a sentence that are taken, because queries are short; our choice (not measured).
_WORDS = 24


def suggested_queries(source: Source, fields: Sequence[str], size: int, seed: int = 0) -> list[str]:
    """Return queries that documents suggest: the first sentence, of at most 24 words, of each of their fields.

    Args:
        source: The documents; all are read.
        fields: Names of fields, such as title and text; a document need not have all of them.
        size: Number of documents that are taken, drawn with equal probability.
        seed: Seed of the draw.

    Raises:
        DataError: No document has any of the fields.
    """
    found: dict[str, None] = {}
    for document in _drawn(source.read(), size, random.Random(seed)):
        for field in fields:
            if isinstance(text := document.get(field), str) and text.strip():
                found[_first_sentence(text)] = None
    if not found:
        raise DataError(f"{source.name}: no document has text in {', '.join(fields)}")
    return list(found)


def _first_sentence(text: str) -> str:
    """Return the first sentence of a text, of at most 24 words."""
    sentence = _SENTENCE.match(text.strip())
    return " ".join((sentence[0] if sentence else text).split()[:_WORDS])


def _drawn(documents: Iterable[Mapping[str, Any]], size: int, generator: random.Random) -> list[Mapping[str, Any]]:
    """Draw documents from a stream with equal probability (reservoir sampling, Vitter's algorithm R)."""
    kept: list[Mapping[str, Any]] = []
    for position, document in enumerate(documents):
        if position < size:
            kept.append(document)
        elif (place := generator.randrange(position + 1)) < size:
            kept[place] = document
    return kept
