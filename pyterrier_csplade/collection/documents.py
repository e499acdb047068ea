"""The documents of a collection, checked and divided into shards."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pyterrier_csplade._errors import CollectionError, DataError
from pyterrier_csplade.storage.docnos import Docnos
from pyterrier_csplade.vectors.checks import check_docno, check_texts


@dataclass(frozen=True)
class DocumentShard:
    """The documents of one shard.

    Attributes:
        number: Number of the shard, from 0.
        docnos: Docnos of the documents.
        texts: Texts of the documents.
    """

    number: int
    docnos: Sequence[str]
    texts: Sequence[str]

    @property
    def sha256(self) -> str:
        """Digest of docnos and texts, with their lengths, so that moving a character from one to the other changes it."""
        fields = (f"{len(docno)}:{docno}{len(text)}:{text}" for docno, text in zip(self.docnos, self.texts))
        return hashlib.sha256("".join(fields).encode()).hexdigest()


def divide(documents: Iterable[Mapping[str, Any]], text_field: str, size: int) -> Iterator[DocumentShard]:
    """Check documents and divide them: ``size`` for each shard, fewer for the last.

    Raises:
        DataError: A docno or text cannot be used, or a docno appears twice; the message names the document.
    """
    seen = Docnos()
    documents = iter(documents)
    number = 0
    while chunk := list(islice(documents, size)):
        docnos = [check_docno(document, position) for position, document in enumerate(chunk, number * size + 1)]
        seen.add(docnos)
        for docno, document in zip(docnos, chunk):
            if text_field not in document:
                fields = ", ".join(map(repr, document))
                raise DataError(f"document {docno} has no field {text_field!r}, only {fields}: name the fields with text")
        texts = check_texts([document[text_field] for document in chunk], document_names(docnos))
        yield DocumentShard(number, docnos, texts)
        number += 1


def document_names(docnos: Sequence[str]) -> list[str]:
    """Return the names of documents in error messages."""
    return [f"document {docno}" for docno in docnos]


@dataclass(frozen=True)
class Part:
    """Every ``count``-th shard, from shard ``index`` on.

    Attributes:
        index: Number of the part, from 0.
        count: Number of parts into which the shards are divided.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise CollectionError(f"a collection has at least 1 part, found {self.count}")
        if not 0 <= self.index < self.count:
            raise CollectionError(f"there is no part {self.index} of {self.count}: parts count from 0 to {self.count - 1}")

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "i/n".

        Raises:
            CollectionError: The text has another form, or i is not below n.
        """
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if numbers is None:
            raise CollectionError(f"expected a part such as 0/4 (the first of four), found {text!r:.60}")
        return cls(int(numbers[1]), int(numbers[2]))

    def __contains__(self, shard: int) -> bool:
        return shard % self.count == self.index

    def overlaps(self, other: Part) -> bool:
        """Return whether a shard belongs to both parts (Chinese remainder theorem)."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
