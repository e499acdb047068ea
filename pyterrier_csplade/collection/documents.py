"""The documents of a collection, checked and divided into shards."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pyterrier_csplade._errors import CollectionError, DataError
from pyterrier_csplade.vectors.checks import check_docno, check_texts


@dataclass(frozen=True)
class DocumentShard:
    """The documents of one shard.

    Attributes:
        number: Of the shard, from 0.
        docnos: Of the documents.
        texts: Of the documents.
    """

    number: int
    docnos: Sequence[str]
    texts: Sequence[str]

    @property
    def names(self) -> list[str]:
        """How messages call the documents."""
        return [f"document {docno}" for docno in self.docnos]

    @property
    def sha256(self) -> str:
        """Digest of docnos and texts; the lengths in it keep what belongs to one from looking like the other's."""
        fields = (f"{len(docno)}:{docno}{len(text)}:{text}" for docno, text in zip(self.docnos, self.texts))
        return hashlib.sha256("".join(fields).encode()).hexdigest()


def divide(documents: Iterable[Mapping[str, Any]], text_field: str, size: int) -> Iterator[DocumentShard]:
    """Check documents and divide them: ``size`` for each shard, fewer for the last.

    Raises:
        DataError: A docno or text cannot be used, or a docno stands twice; names the document.
    """
    seen = Docnos()
    documents = iter(documents)
    number = 0
    while chunk := list(islice(documents, size)):
        docnos = [check_docno(document, position) for position, document in enumerate(chunk, number * size + 1)]
        seen.add(docnos, number * size + 1)
        for docno, document in zip(docnos, chunk):
            if text_field not in document:
                fields = ", ".join(map(repr, document))
                raise DataError(f"document {docno} has no field {text_field!r}, only {fields}: name the fields of the text")
        names = [f"document {docno}" for docno in docnos]
        yield DocumentShard(number, docnos, check_texts([document[text_field] for document in chunk], names))
        number += 1


class Docnos:
    """The docnos so far, as digests of 16 bytes: with the sets of Python they would take ten times the memory."""

    def __init__(self) -> None:
        # Sorted arrays, each more than twice as long as the next, so that adding costs little whatever came before.
        self._runs: list[np.ndarray] = []

    def add(self, docnos: Sequence[str], position: int) -> None:
        """Add docnos; ``position`` is that of the first, for the message."""
        # Without the zero bytes at the end that numpy's strings ignore.
        digests = (hashlib.blake2b(docno.encode(), digest_size=15).digest() + b"." for docno in docnos)
        new = np.frombuffer(b"".join(digests), dtype="S16")
        _, first = np.unique(new, return_index=True)
        again = np.ones(len(new), dtype=bool)
        again[first] = False
        for run in self._runs:
            again |= run[np.minimum(np.searchsorted(run, new), len(run) - 1)] == new
        if again.any():
            row = int(np.argmax(again))
            raise DataError(f"docno {docnos[row]!r} of document {position + row} stands twice: a docno names one document")
        self._runs.append(np.sort(new))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs[-2:] = [np.sort(np.concatenate(self._runs[-2:]), kind="stable")]


@dataclass(frozen=True)
class Part:
    """Every ``count``-th shard, from shard ``index`` on.

    Attributes:
        index: From 0.
        count: Into how many parts the shards are divided.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise CollectionError(f"there is no part {self.index} of {self.count}: parts count from 0 to {self.count - 1}")

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "i/n".

        Raises:
            CollectionError: The text is something else, or i is not below n.
        """
        numbers = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if numbers is None:
            raise CollectionError(f"expected a part such as 0/4 (the first of four), found {text!r}")
        return cls(int(numbers[1]), int(numbers[2]))

    def __contains__(self, shard: int) -> bool:
        return shard % self.count == self.index

    def overlaps(self, other: Part) -> bool:
        """Whether some shard belongs to both parts (Chinese remainder theorem)."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
