"""Texts of queries to make a query table from: given ones, or such as documents suggest."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError

from .directory import field_texts
from .jsonl import read_jsonl, read_lines
from .sources import Source, find_dataset

# A sentence ends with a mark of punctuation before a space, but not within so many characters ("Dr. Smith", "U.S. history");
# our choice (not measured).
_SENTENCE = re.compile(r".{20,}?[.!?](?=\s)", re.DOTALL)
# Words of a sentence that are taken, because queries are short; our choice (not measured).
_WORDS = 24


def read_queries(name: str) -> list[str]:
    """Read the texts of queries.

    Args:
        name: A TSV file of qid TAB query; a JSONL file of objects with a ``query``, such as training rows, both also with
            ``.gz``; or the name of a PyTerrier dataset with topics (``irds:`` ids included).

    Raises:
        DataError: There are no queries of this name, or a line has none; names it.
    """
    path = Path(name)
    if path.is_dir():
        raise DataError(f"{name} is a directory: give the file of its queries, such as {path / 'topics.train.tsv'}")
    if path.exists():
        found = list(_rows(path))
    else:
        dataset = find_dataset(name)
        try:
            found = dataset.get_topics()["query"].tolist()
        except (KeyError, NotImplementedError, ValueError) as error:
            raise DataError(f"the dataset {name} has no topics with a query") from error
    if not found:
        raise DataError(f"{name} holds no queries")
    return found


def _rows(path: Path) -> Iterator[str]:
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        for number, row in read_jsonl(path):
            yield from field_texts(row, ("query",), f"{path}, line {number}")
        return
    for number, line in read_lines(path):
        qid, tab, query = line.rstrip("\r\n").partition("\t")
        if not tab:
            raise DataError(f"{path}, line {number}: expected qid TAB query, found {line.rstrip()[:60]!r}")
        yield query


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
                found[first_sentence(text)] = None
    if not found:
        raise DataError(f"{source.name}: no document has text in {', '.join(fields)}")
    return list(found)


def first_sentence(text: str) -> str:
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
