"""Writes the postings of an index. They are transposed on disk, so that memory does not grow with the collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from .bits import PostingFile

#: Number of postings that are transposed together, about 0.5 GiB with all temporary arrays; our choice (not measured). The list
#: of a term is never divided, so memory also grows by 40 bytes for each document.
POSTINGS_IN_MEMORY = 2**22

# An entry of data.document.fsarrayfile, and the value of one of data.lexicon.fsomapfile.
_DOCUMENT = np.dtype([("length", ">i4"), ("byte", ">i8"), ("bit", "i1"), ("terms", ">i4")])


@dataclass(frozen=True)
class TermStatistics:
    """The lexicon's statistics of each term, as int64 arrays [terms].

    Attributes:
        documents: Number of documents that contain the term.
        tokens: Sum of its impacts.
        largest: Its largest impact.
        positions: Bit of the inverted file at which its postings start.
    """

    documents: np.ndarray
    tokens: np.ndarray
    largest: np.ndarray
    positions: np.ndarray


class Transposition:
    """Receives postings document by document, and returns them term by term.

    Each shard is transposed in memory and written to disk; then ranges of terms are gathered from all shards. Each posting is
    written and read once.
    """

    def __init__(self, path: Path, terms: int) -> None:
        """Create the temporary file for a number of terms."""
        self._path = path
        self._terms = terms
        self._counts: list[np.ndarray] = []  # for each shard, postings of each term
        path.touch()

    def add(self, shard: csr_matrix, first_document: int) -> None:
        """Add the impacts of the next documents, [documents, terms]."""
        columns = shard.tocsc()
        postings = np.column_stack([columns.indices + np.int32(first_document), columns.data]).astype(np.int32, copy=False)
        with self._path.open("ab") as file:
            file.write(postings.tobytes())
        self._counts.append(np.diff(columns.indptr).astype(np.int32))

    def ranges(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the document ids, impacts and numbers of postings of successive ranges of terms."""
        documents = np.zeros(self._terms, dtype=np.int64)
        for counts in self._counts:
            documents += counts
        sizes = [int(counts.sum(dtype=np.int64)) for counts in self._counts]
        offsets = np.cumsum([0, *sizes[:-1]])
        start = 0
        while start < self._terms:
            room = np.searchsorted(np.cumsum(documents[start:]), POSTINGS_IN_MEMORY, side="right")
            end = start + max(int(room), 1)
            yield *self._gather(slice(start, end), documents[start:end], offsets), documents[start:end]
            start = end

    def _gather(self, terms: slice, lengths: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        postings = np.empty((int(lengths.sum()), 2), dtype=np.int32)
        places = np.cumsum(lengths) - lengths  # of the next posting of each term
        for shard, shard_counts in enumerate(self._counts):
            counts = shard_counts[terms].astype(np.int64)
            number = int(counts.sum())
            part = np.fromfile(self._path, np.int32, 2 * number, offset=8 * int(offsets[shard])).reshape(-1, 2)
            postings[np.repeat(places - (np.cumsum(counts) - counts), counts) + np.arange(number)] = part
            places += counts
            offsets[shard] += number
        return postings[:, 0], postings[:, 1]


def write_direct(
    shards: Iterator[csr_matrix], directory: Path, transposition: Transposition, advance: Callable[[int], object]
) -> None:
    """Write the forward postings and the document index, and pass the postings on to be transposed.

    ``shards`` are int32 [documents, terms], documents in the order of the index, terms in the order of the lexicon. ``advance``
    is called with the numbers of postings written.
    """
    file = PostingFile(directory / "data.direct.bf")
    first = 0
    with (directory / "data.document.fsarrayfile").open("wb") as documents:
        for shard in shards:
            shard.sort_indices()
            entries = np.zeros(shard.shape[0], dtype=_DOCUMENT)
            entries["terms"] = np.diff(shard.indptr)
            entries["length"] = np.asarray(shard.sum(axis=1, dtype=np.int64)).ravel()
            positions = file.write(shard.indices, shard.data, entries["terms"].astype(np.int64))
            entries["byte"], entries["bit"] = positions >> 3, positions & 7
            documents.write(entries.tobytes())
            transposition.add(shard, first)
            first += shard.shape[0]
            advance(shard.nnz)
    file.close()


def write_inverted(transposition: Transposition, directory: Path, advance: Callable[[int], object]) -> TermStatistics:
    """Write the inverted postings of all terms; ``advance`` is called with the numbers of postings written."""
    file = PostingFile(directory / "data.inverted.bf")
    parts: list[Sequence[np.ndarray]] = []
    for ids, impacts, lengths in transposition.ranges():
        starts = np.cumsum(lengths) - lengths
        tokens = np.add.reduceat(impacts, starts, dtype=np.int64)
        parts.append((lengths, tokens, np.maximum.reduceat(impacts, starts), file.write(ids, impacts, lengths)))
        advance(len(ids))
    file.close()
    return TermStatistics(*(np.concatenate(arrays).astype(np.int64) for arrays in zip(*parts)))
