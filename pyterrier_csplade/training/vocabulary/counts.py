"""Counts of the tokens in a corpus."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyterrier as pt
from tokenizers import Tokenizer

from pyterrier_csplade._errors import DataError

# Number of texts to tokenise at once; our choice (not measured).
_BATCH = 256


@dataclass
class Counts:
    """Tokens of a corpus.

    Attributes:
        documents: Number of documents that contain each id, int64 [ids].
        occurrences: Number of occurrences of each id, int64 [ids].
        digests: A checksum of the ids of each document.
        texts: Number of documents.
        words: Number of words, divided by white space.
        bytes: Number of bytes of the texts in UTF-8.
        sample: A random sample of the texts.
    """

    documents: np.ndarray
    occurrences: np.ndarray
    digests: list[int] = field(default_factory=list)
    texts: int = 0
    words: int = 0
    bytes: int = 0
    sample: list[str] = field(default_factory=list)


def count_tokens(texts: Iterable[str], tokenizer: Tokenizer, *, sample: int, seed: int, name: str) -> Counts:
    """Tokenise a corpus and count.

    Raises:
        DataError: The corpus has no text.
    """
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    counts = Counts(np.zeros(size, np.int64), np.zeros(size, np.int64))
    draw = random.Random(seed)
    for batch, encoded in tokenised(texts, tokenizer, "counting tokens"):
        for text, ids in zip(batch, encoded):
            counts.digests.append(checksum(ids))
            np.add.at(counts.occurrences, ids, 1)
            counts.documents[np.unique(ids)] += 1
            counts.words += len(text.split())
            counts.bytes += len(text.encode())
            counts.texts += 1
            place = len(counts.sample) if len(counts.sample) < sample else draw.randrange(counts.texts)
            if place < sample:
                counts.sample[place : place + 1] = [text]
    if not counts.words:
        raise DataError(f"{name}: the corpus has no text" if counts.texts else f"{name}: the corpus is empty")
    return counts


def tokenised(texts: Iterable[str], tokenizer: Tokenizer, what: str) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield batches of texts with their ids, without special tokens around them, and show the progress."""
    iterator = iter(texts)
    with pt.tqdm(desc=what, unit="d") as bar:
        while batch := list(islice(iterator, _BATCH)):
            encoded = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            yield batch, [np.asarray(encoding.ids, np.int64) for encoding in encoded]
            bar.update(len(batch))


def checksum(ids: np.ndarray) -> int:
    """Return a checksum of a text's ids."""
    return zlib.crc32(ids.astype(np.int32).tobytes())
