"""Builds the file of postings of an index, from the vectors of its documents or from Terrier's files, and opens it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._version import __version__
from pyterrier_csplade.index.terrier.reader import TerrierFiles
from pyterrier_csplade.storage.arrays import ArrayWriter, PackedStrings
from pyterrier_csplade.storage.manifest import check_on_opening, has_manifest
from pyterrier_csplade.storage.workspace import publishing
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import MAX_IMPACT
from pyterrier_csplade.vectors.matrices import EncodedVectors, row_pieces

from .postings import FORMAT, POSTINGS_FILE, Postings, checksum, index_identity

# Number of postings that are transposed together, in about 100 MB of working memory; our choice (not measured).
_PIECE = 2**22


def write_postings(directory: Path, vectors: EncodedVectors, *, verbose: bool = False) -> None:
    """Write the postings of an index from its documents' vectors. Call this when the index and its manifest are complete.

    The vectors are read twice, in pieces. Besides one of their blocks, memory holds 100 MB, the docnos and 8 bytes for each of
    them, and 32 bytes for each term. The file is mapped into memory while it is written.

    Args:
        directory: The directory of the index.
        vectors: The documents, in the order of the index. Impacts must be whole numbers from 1 to 2**31 - 1.
        verbose: Whether to show a progress bar.

    Raises:
        DataError: An impact is not a whole number from 1 to 2**31 - 1, or a document has a term twice.
        ImpactIndexError: The directory cannot be written.
    """
    with publishing(directory, POSTINGS_FILE) as path:
        docnos, counts, largest = _measure(vectors, verbose)
        columns = np.flatnonzero(counts)
        vocabulary = [vectors.vocabulary[column] for column in columns.tolist()]
        order = sorted(range(len(columns)), key=vocabulary.__getitem__)
        writer = _PostingsWriter(path, counts[columns[order]], largest)
        # The place of the next posting of each column.
        cursors = np.zeros(len(counts), dtype=np.int64)
        cursors[columns[order]] = writer.starts[:-1]
        first = 0
        for piece in _pieces(vectors, verbose):
            _scatter(piece, first, cursors, writer)
            first += piece.shape[0]
        terms = PackedStrings(vocabulary[i] for i in order)
        writer.finish(terms, docnos, vectors.contract, index_identity(directory))


def open_postings(directory: Path, contract: Contract | None, *, memory: bool = False, verbose: bool = False) -> Postings:
    """Open the postings of an index; build them first if they are missing, or if the index was built again.

    ``contract`` is stored with postings that are built. With ``memory``, the file is read into memory instead of being mapped.
    Building takes about 0.1 s for a million postings with numba, 2 s without.

    Raises:
        ImpactIndexError: The index or its postings are damaged, the index is of another kind, or the directory cannot be
            written.
    """
    postings = _current(directory, memory)
    if postings is None:
        if has_manifest(directory):
            check_on_opening(directory)
        with publishing(directory, POSTINGS_FILE) as path:
            if _current(directory, memory) is None:  # otherwise another process has built them meanwhile
                _write_terrier_postings(path, directory, contract, verbose)
        postings = Postings(directory / POSTINGS_FILE, memory=memory)
    return postings


def _measure(vectors: EncodedVectors, verbose: bool) -> tuple[PackedStrings, np.ndarray, int]:
    """Return the docnos, the number of postings of each column, and the largest impact."""
    docnos = PackedStrings()
    counts, largest = np.zeros(len(vectors.vocabulary), dtype=np.int64), 1
    with pt.tqdm(total=len(vectors), desc="counting postings", unit="d", disable=not verbose) as bar:
        for names, block in vectors.blocks():
            docnos.extend(names)
            if block.nnz:
                largest = max(largest, _check(block, names))
                counts += np.bincount(block.indices, minlength=len(counts))
            bar.update(len(names))
    return docnos, counts, largest


def _check(block: csr_matrix, docnos: Sequence[str]) -> int:
    """Return the largest impact of a block; raise DataError for weights that are not impacts."""
    bad = ~((block.data >= 1) & (block.data <= MAX_IMPACT))
    if block.data.dtype.kind not in "iub":
        bad |= block.data != np.floor(block.data)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        docno = docnos[int(np.searchsorted(block.indptr, at, side="right")) - 1]
        raise DataError(
            f"document {docno!r} has the impact {block.data[at]}: impacts must be whole numbers from 1 to {MAX_IMPACT:,}"
        )
    in_order = block if block.has_sorted_indices else block.sorted_indices()
    if not in_order.has_canonical_format:
        raise DataError(f"{docnos[0]!r} or a later document has a term twice: call sum_duplicates() on the documents' matrix")
    return int(block.data.max())


def _pieces(vectors: EncodedVectors, verbose: bool) -> Iterator[csr_matrix]:
    """Yield the vectors in matrices of at most ``_PIECE`` postings, or one document."""
    with pt.tqdm(total=len(vectors), desc="writing postings", unit="d", disable=not verbose) as bar:
        for _, block in vectors.blocks():
            for rows in row_pieces(block.indptr, _PIECE):
                yield block[rows]
                bar.update(rows.stop - rows.start)


def _scatter(piece: csr_matrix, first: int, cursors: np.ndarray, writer: _PostingsWriter) -> None:
    """Append the postings of documents to their lists; the documents' numbers start at ``first``."""
    by_term = piece.tocsc()  # keeps the order of the documents
    counts = np.diff(by_term.indptr)
    places = np.repeat(cursors - by_term.indptr[:-1], counts) + np.arange(by_term.nnz)
    writer.docids[places] = by_term.indices + first
    writer.impacts[places] = by_term.data
    cursors += counts


class _PostingsWriter:
    """Writes a file of postings whose lists the caller fills.

    Attributes:
        starts: int64 [terms + 1]: start of each term's list.
        docids: int32 [postings], to be filled, increasing in each list.
        impacts: [postings], to be filled.
    """

    def __init__(self, path: Path, counts: np.ndarray, largest: int) -> None:
        """Reserve the space, given the number of postings of each term (int64 [terms], at least 1) and the largest impact."""
        self._writer = ArrayWriter(path)
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        postings, dtype = int(self.starts[-1]), np.min_scalar_type(largest)
        self.docids = self._writer.allocate("docids", postings, np.int32, digest=False)
        self.impacts = self._writer.allocate("impacts", postings, dtype, digest=False)

    def finish(self, terms: PackedStrings, docnos: PackedStrings, contract: Contract | None, index: str) -> None:
        """Add everything that follows from the filled lists, and close the file."""
        bounds = list(zip(self.starts[:-1].tolist(), self.starts[1:].tolist()))
        checksums = [checksum(self.docids[start:end], self.impacts[start:end]) for start, end in bounds]
        self._writer.add("starts", self.starts)
        self._writer.add("checksums", np.array(checksums, np.uint32))
        maxima = np.maximum.reduceat(self.impacts, self.starts[:-1]) if bounds else self.impacts
        self._writer.add("max_impacts", maxima)
        terms.write(self._writer, "terms")
        docnos.write(self._writer, "docnos")
        self._writer.finish(
            {
                "postings_format": FORMAT,
                "version": __version__,
                "index": index,
                "contract": None if contract is None else contract.to_dict(),
            }
        )


def _current(directory: Path, memory: bool) -> Postings | None:
    try:
        postings = Postings(directory / POSTINGS_FILE, memory=memory)
    except FileNotFoundError:
        return None
    return postings if postings.index == index_identity(directory) else None


def _write_terrier_postings(path: Path, directory: Path, contract: Contract | None, verbose: bool) -> None:
    identity = index_identity(directory)
    files = TerrierFiles(directory)
    order = np.array(sorted(range(len(files.terms)), key=files.terms.__getitem__), dtype=np.int64)
    counts = files.lexicon["documents"].astype(np.int64)[order]
    writer = _PostingsWriter(path, counts, int(files.lexicon["largest"].max(initial=1)))
    files.postings(order, writer.starts, writer.docids, writer.impacts, verbose=verbose)
    terms = PackedStrings(files.terms[i] for i in order.tolist())
    writer.finish(terms, PackedStrings(files.docnos()), contract, identity)
