"""The postings of an index: for each term, the documents that contain it and their impacts."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade.storage.arrays import ArrayFile, StringTable, are_starts
from pyterrier_csplade.storage.manifest import MANIFEST_FILE, has_manifest
from pyterrier_csplade.vectors.contract import Contract

#: The file of the postings in the directory of an index.
POSTINGS_FILE = "csplade_postings.bin"

FORMAT = 1


@dataclass(frozen=True)
class Query:
    """A query as term numbers of an index.

    Attributes:
        terms: int64 array: numbers of terms; terms that can add most to a score come first.
        weights: float64 array: their weights, above 0.
    """

    terms: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.terms)


class Postings:
    """Posting lists that are open for searching: mapped arrays, which stay valid if another process replaces the file.

    The list of term ``t`` is ``docids[starts[t]:starts[t + 1]]``, increasing, and ``impacts`` of the same range. Check a list
    with :meth:`check` before reading it.

    Attributes:
        starts: int64 [terms + 1].
        docids: int32 [postings]: documents by their position in the order of indexing, counted from 0.
        impacts: [postings], of the smallest unsigned type that can represent the largest impact. With ``docids``, a posting
            takes 5 to 8 bytes.
        max_impacts: [terms]: the largest impact of each term, of the same type.
        terms: The index terms, in the order of their code points; each has postings.
        docnos: The docno of each document.
        contract: The contract of the document encoder; None if unknown.
        index: Identity of the index that the postings belong to; see :func:`index_identity`.
    """

    def __init__(self, path: Path, *, memory: bool = False) -> None:
        """Open a file of postings, mapped or read into memory.

        Raises:
            FileNotFoundError: There is no such file.
            ImpactIndexError: The file is truncated, has changed, or is from another version.
        """
        self.file = ArrayFile(path, memory=memory)
        metadata = self.file.metadata
        if metadata.get("postings_format") != FORMAT:
            raise ImpactIndexError(f"{path} has another format: remove it and open the index again, which builds it")
        self.terms = StringTable(self.file, "terms")
        self.docnos = StringTable(self.file, "docnos")
        self.starts = self.file.array("starts", np.int64, len(self.terms) + 1)
        self.docids = self.file.array("docids", np.int32, None)
        self.impacts = self.file.array("impacts", np.unsignedinteger, len(self.docids))
        self.max_impacts = self.file.array("max_impacts", self.impacts.dtype, len(self.terms))
        self._checksums = self.file.array("checksums", np.uint32, len(self.terms))
        self.file.require(are_starts(self.starts, len(self.docids)) and (self.starts[1:] > self.starts[:-1]).all(), "starts")
        self.index = str(metadata.get("index"))
        contract = metadata.get("contract")
        self.file.require(contract is None or isinstance(contract, dict), "contract")
        self.contract = None if contract is None else Contract.from_dict(contract, source=str(path))
        self._numbers = {term: number for number, term in enumerate(self.terms)}
        self._checked = np.zeros(len(self.terms), dtype=bool)

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.docnos)

    def number(self, term: str) -> int | None:
        """Return the number of a term; None if no document contains it."""
        return self._numbers.get(term)

    def documents(self) -> dict[str, int]:
        """Return the number of each document by its docno."""
        return {docno: number for number, docno in enumerate(self.docnos)}

    def query(self, weights: Mapping[str, float]) -> Query:
        """Return a query as term numbers of this index, without terms that are not in it.

        Terms are sorted by their bound (weight times largest impact), the largest first; equal ones keep the order of
        ``terms``. Every algorithm adds up scores in this order, so that all round in the same way.

        Args:
            weights: Term to weight, above 0.
        """
        terms = np.fromiter(map(self._numbers.get, weights, repeat(-1)), np.int64, len(weights))
        values = np.fromiter(weights.values(), np.float64, len(weights))
        known = terms >= 0
        if not known.all():
            terms, values = terms[known], values[known]
        order = np.lexsort((terms, -values * self.max_impacts[terms]))
        return Query(terms[order], values[order])

    def list_of(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the documents and impacts of a term."""
        start, end = self.starts[term], self.starts[term + 1]
        return self.docids[start:end], self.impacts[start:end]

    def check(self, terms: np.ndarray) -> None:
        """Check the lists of some terms and their checksums, each at its first use.

        Compiled loops do not check documents: with a document out of range or out of order, they would read and write memory
        outside the arrays.

        Raises:
            ImpactIndexError: A list has changed.
        """
        for term in terms[~self._checked[terms]].tolist():
            docids, impacts = self.list_of(term)
            whole = checksum(docids, impacts) == self._checksums[term] and are_documents(docids, len(self))
            whole = whole and impacts.min() > 0 and impacts.max() == self.max_impacts[term]
            self.file.require(whole, f"postings of {self.terms[term]!r}")
            self._checked[term] = True


def are_documents(docids: np.ndarray, documents: int) -> bool:
    """Whether a non-empty list contains ascending numbers of documents."""
    return bool(docids[0] >= 0 and docids[-1] < documents and (docids[1:] > docids[:-1]).all())


def checksum(docids: np.ndarray, impacts: np.ndarray) -> int:
    """Return the CRC-32 of a posting list."""
    return zlib.crc32(impacts.data, zlib.crc32(docids.data))


def index_identity(directory: Path) -> str:
    """Return the digest of an index's manifest, which distinguishes it from earlier and later indexes in its directory.

    Without a manifest, the names, sizes and times of Terrier's files are used instead.
    """
    if has_manifest(directory):
        return hashlib.sha256((directory / MANIFEST_FILE).read_bytes()).hexdigest()
    files = sorted(directory.glob("data.*"))
    found: list[Any] = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()
