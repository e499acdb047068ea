"""Temporary files of checked documents, between a pipeline and the writers of the index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import lz4.frame
import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.vectors.checks import OneEncoder, text_length
from pyterrier_csplade.vectors.vocabulary import is_index_term

from .terrier.meta import FieldLength

#: What to do with a repeated docno.
OnDuplicate = Literal["refuse", "skip", "last"]

# Number of postings of a shard, which is written and read at once; our choice (not measured).
_SHARD = 2**22


class TermNumbers(dict[str, int]):
    """Numbers terms in the order of their first look-up; KeyError for terms that Terrier's lexicon cannot hold."""

    def __missing__(self, term: object) -> int:
        if not (isinstance(term, str) and is_index_term(term)):
            raise KeyError(term)
        return self.setdefault(term, len(self))


class Spool:
    """Documents that passed all checks, in temporary files: impacts in shards, metadata fields as JSON.

    The lexicon and the longest docno must be known before the first document is written to an index, and an invalid document
    must leave no index behind. All documents therefore wait here until the last one has been checked. A posting takes 8 bytes
    on disk. In memory are the docnos and terms (about 200 bytes each) and two shards of 4 million postings.

    Attributes:
        terms: Term to its number, which is its column in :meth:`shards`.
        lengths: Metadata field to the length that fits its longest value.
        encoder: The encoder of the documents.
        fractional: Whether a weight was rounded.
    """

    def __init__(self, directory: Path, *, fields: Iterable[str] = (), on_duplicate: OnDuplicate = "refuse") -> None:
        """Create an empty spool in an existing directory; ``fields`` are the metadata fields to store besides the docno."""
        self.terms = TermNumbers()
        self.lengths = {name: FieldLength() for name in dict.fromkeys(("docno", *fields))}
        self.encoder = OneEncoder()
        self.fractional = False
        self._on_duplicate = on_duplicate
        self._impacts_path, self._fields_path = directory / "impacts", directory / "fields.lz4"
        # Docno to the row of its document, in the order of the index, without rows of replaced documents.
        self._rows: dict[str, int] = {}
        self._next_row = 0
        self._counts: list[np.ndarray] = []  # for each shard on disk, postings of each row
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # postings of each row, columns, impacts
        self._records: list[str] = []  # metadata not yet on disk

    @property
    def docnos(self) -> Sequence[str]:
        """The docnos of the documents to index, in the order of the index."""
        return list(self._rows)

    @property
    def counts(self) -> np.ndarray:
        """int64 array: the number of impacts of each document to index."""
        counts = np.concatenate([np.zeros(0, dtype=np.int64), *self._counts])
        return counts if len(self._rows) == len(counts) else counts[self._kept()]

    def accept(self, docno: str, position: int) -> bool:
        """Return whether to index the document with this docno; if so, its impacts must be put next.

        Raises:
            DataError: The docno is repeated, and ``on_duplicate`` is "refuse".
        """
        if docno in self._rows:
            if self._on_duplicate == "refuse":
                raise DataError(
                    f"docno {docno!r} of document {position} appears twice: docnos must be unique; on_duplicate='skip' keeps "
                    "the first document, on_duplicate='last' the last"
                )
            if self._on_duplicate == "skip":
                return False
            del self._rows[docno]
        self._rows[docno] = self._next_row
        self._next_row += 1
        return True

    def put_fields(self, values: Mapping[str, str], docno: str) -> None:
        """Put the metadata fields of an accepted document, including the docno."""
        for name, value in values.items():
            what = f"document {docno!r}: field {name!r}"
            self.lengths[name].observe(text_length(value, what), len(value.encode()))
        if len(values) > 1:
            self._records.append(json.dumps(list(values.values())) + "\n")

    def put_impacts(self, counts: np.ndarray, columns: np.ndarray, impacts: np.ndarray) -> None:
        """Put the impacts of the accepted documents.

        Args:
            counts: Number of impacts of each document.
            columns: Number of each impact's term; no document has a term twice.
            impacts: Impacts from 1 to 2**31 - 1.
        """
        self._waiting.append((counts.astype(np.int64), columns.astype(np.int32), impacts.astype(np.int32)))
        if sum(len(waiting[1]) for waiting in self._waiting) >= _SHARD:
            self.flush()

    def flush(self) -> None:
        """Write everything that is still in memory. Call this after the last document."""
        if self._waiting:
            counts, columns, impacts = (np.concatenate(arrays) for arrays in zip(*self._waiting))
            with self._impacts_path.open("ab") as file:
                file.write(columns.data)
                file.write(impacts.data)
            self._counts.append(counts)
        if self._records:
            with lz4.frame.open(self._fields_path, "ab") as file:
                file.write("".join(self._records).encode())
        self._waiting, self._records = [], []

    def shards(self) -> Iterator[csr_matrix]:
        """Yield the impacts of the documents to index, int32 [documents, terms], shard by shard."""
        offset = row = 0
        for counts in self._counts:
            postings = int(counts.sum())
            columns, impacts = np.fromfile(self._impacts_path, np.int32, 2 * postings, offset=offset).reshape(2, postings)
            indptr = np.concatenate([[0], np.cumsum(counts)])
            shard = csr_matrix((impacts, columns, indptr), shape=(len(counts), len(self.terms)))
            kept = self._kept() - row
            yield shard if len(self._rows) == self._next_row else shard[kept[(kept >= 0) & (kept < len(counts))]]
            offset, row = offset + 8 * postings, row + len(counts)

    def records(self) -> Iterator[Sequence[str]]:
        """Yield the metadata fields of the documents to index, in the order of ``lengths``."""
        if len(self.lengths) == 1:
            yield from ((docno,) for docno in self._rows)
            return
        kept = frozenset(self._rows.values())
        with lz4.frame.open(self._fields_path, "rt", encoding="utf-8") as file:
            yield from (json.loads(line) for row, line in enumerate(file) if row in kept)

    def remove(self) -> None:
        """Remove the impacts, to free disk space."""
        self._impacts_path.unlink()

    def _kept(self) -> np.ndarray:
        return np.fromiter(self._rows.values(), dtype=np.int64, count=len(self._rows))
