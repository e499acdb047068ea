"""Queries derived from documents, for a query table without other queries."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from pyterrier_csplade._errors import DataError

from .sources import Source

T = TypeVar("T")


# A sentence ends with a punctuation mark before a space, but not within the first 20 characters ("Dr. Smith", "U.S. history");
# our choice (not measured).
_SENTENCE = re.compile(r".{20,}?[.!?](?=\s)", re.DOTALL)
# Maximum number of words of a query; our choice (not measured).
_WORDS = 24


def suggested_queries(source: Source, fields: Sequence[str], size: int, seed: int = 0) -> list[str]:
    """Return queries derived from documents: the first sentence, cut to 24 words, of each of their fields.

    Args:
        source: The documents; all are read.
        fields: Names of fields, such as title and text; a document may lack some of them.
        size: Number of documents to sample with equal probability.
        seed: Seed of the sample.

    Raises:
        DataError: No document has any of the fields.
    """
    queries: dict[str, None] = {}
    for document in draw(source.read(), size, random.Random(seed))[1]:
        for field in fields:
            if isinstance(text := document.get(field), str) and text.strip():
                queries[_first_sentence(text)] = None
    if not queries:
        raise DataError(f"{source.name}: no document has text in {', '.join(fields)}")
    return list(queries)


def _first_sentence(text: str) -> str:
    """Return the first sentence of a text, cut to 24 words."""
    sentence = _SENTENCE.match(text.strip())
    return " ".join((sentence[0] if sentence else text).split()[:_WORDS])


def draw(documents: Iterable[T], size: int, generator: random.Random) -> tuple[int, list[T]]:
    """Count documents, and draw a sample with equal probability (reservoir sampling, Vitter's algorithm R)."""
    sample: list[T] = []
    count = 0
    for count, document in enumerate(documents, start=1):  # noqa: B007
        if len(sample) < size:
            sample.append(document)
        elif (place := generator.randrange(count)) < size:
            sample[place] = document
    return count, sample
