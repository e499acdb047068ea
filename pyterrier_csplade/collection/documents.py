"""The documents of a collection, checked and divided into shards."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pyterrier_csplade._errors import CollectionError
from pyterrier_csplade.storage.docnos import Docnos
from pyterrier_csplade.vectors.checks import check_docno, check_record


@dataclass(frozen=True)
class DocumentShard:
    """The documents of one shard.

    Attributes:
        number: Number of the shard, from 0.
        docnos: Docnos of the documents.
        texts: Texts of the documents, or what an image encoder makes of pictures, with a digest each.
    """

    number: int
    docnos: Sequence[str]
    texts: Sequence[Any]

    @property
    def sha256(self) -> str:
        """Digest of docnos and texts, with their lengths, so that moving a character from one to the other changes it."""
        texts = (text if isinstance(text, str) else text.digest for text in self.texts)
        fields = (f"{len(docno)}:{docno}{len(text)}:{text}" for docno, text in zip(self.docnos, texts))
        return hashlib.sha256("".join(fields).encode()).hexdigest()


#: Returns what an encoder encodes of documents, with the names of the documents for messages.
Reader = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Sequence[Any]]


def divide(documents: Iterable[Mapping[str, Any]], read: Reader, size: int) -> Iterator[DocumentShard]:
    """Check documents and divide them: ``size`` for each shard, fewer for the last.

    Args:
        documents: The documents.
        read: ``contents`` of the encoder.
        size: Documents of a shard.

    Raises:
        DataError: A docno or text cannot be used, or a docno appears twice; the message names the document.
    """
    seen = Docnos()
    documents = iter(documents)
    number = 0
    while chunk := list(islice(documents, size)):
        docnos = [
            check_docno(check_record(document, f"document {position}"), position)
            for position, document in enumerate(chunk, number * size + 1)
        ]
        seen.add(docnos)
        yield DocumentShard(number, docnos, read(chunk, document_names(docnos)))
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
