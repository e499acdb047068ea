"""Building the file of postings of an index."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyterrier as pt
from filelock import FileLock
from scipy.sparse import csr_matrix

from pyterrier_csplade import __version__
from pyterrier_csplade._contract import Contract
from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade._impacts import MAX_IMPACT
from pyterrier_csplade._manifest import sync
from pyterrier_csplade._vectors import EncodedVectors, row_pieces

from ._arrays import ArrayWriter
from ._postings import FORMAT, POSTINGS_FILE, checksum, index_identity
from ._strings import PackedStrings

# Postings that are turned together (ours): about 100 MB of working memory.
_PIECE = 2**22


class PostingsWriter:
    """Writes a file of postings whose lists the caller fills.

    Attributes:
        starts: int64 [terms + 1]: where the list of each term starts.
        docids: int32 [postings], to be filled, increasing in each list.
        impacts: [postings], to be filled.
    """

    def __init__(self, path: Path, counts: np.ndarray, largest: int) -> None:
        """Reserve the space.

        Args:
            path: The file to write.
            counts: int64 [terms]: postings of each term, at least 1.
            largest: The largest impact.
        """
        self._writer = ArrayWriter(path)
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        postings, dtype = int(self.starts[-1]), np.min_scalar_type(largest)
        self.docids = self._writer.allocate("docids", postings, np.int32, digest=False)
        self.impacts = self._writer.allocate("impacts", postings, dtype, digest=False)

    def finish(self, terms: PackedStrings, docnos: PackedStrings, contract: Contract | None, index: str) -> None:
        """Add what is known only when the lists are full, and close the file."""
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


def write_postings(directory: Path, vectors: EncodedVectors, *, verbose: bool = False) -> None:
    """Write the postings of an index from its documents' vectors; call it when the index is complete, manifest and all.

    The vectors are read twice, in pieces. Memory beside one of their blocks: 100 MB, the docnos and 8 bytes each,
    and 32 bytes a term; the file that is written is mapped, and its pages are the system's to write back.

    Args:
        directory: The directory of the index.
        vectors: The documents in the order of the index. Impacts must be whole numbers from 1 to 2**31 - 1.
        verbose: Whether to show a progress bar.

    Raises:
        DataError: An impact is not such a number.
        ImpactIndexError: The directory cannot be written.
    """
    with publishing(directory) as path:
        docnos, counts, largest = _measure(vectors, verbose)
        columns = np.flatnonzero(counts)
        vocabulary = [vectors.vocabulary[column] for column in columns.tolist()]
        order = sorted(range(len(columns)), key=vocabulary.__getitem__)
        writer = PostingsWriter(path, counts[columns[order]], largest)
        # The place of the next posting of each column.
        cursors = np.zeros(len(counts), dtype=np.int64)
        cursors[columns[order]] = writer.starts[:-1]
        first = 0
        for piece in _pieces(vectors, "writing postings", verbose):
            _scatter(piece, first, cursors, writer)
            first += piece.shape[0]
        terms = PackedStrings(vocabulary[i] for i in order)
        writer.finish(terms, docnos, vectors.contract, index_identity(directory))


@contextlib.contextmanager
def publishing(directory: Path, name: str = POSTINGS_FILE) -> Iterator[Path]:
    """Write the postings of an index under a temporary name, and rename the file when it is complete.

    One process writes at a time; others wait for its end.

    Args:
        directory: The directory of the index.
        name: The file to write; one of several that belong to the postings.

    Yields:
        The temporary name. Where nothing is written, nothing is renamed.

    Raises:
        ImpactIndexError: The directory cannot be written.
    """
    lock = FileLock(directory / ".csplade_postings.lock")
    temporary = directory / f".csplade_postings-{os.getpid()}"
    try:
        lock.acquire()
    except OSError as error:
        raise ImpactIndexError(f"cannot write the postings of {directory} beside it: {error}") from error
    try:
        for leftover in directory.glob(".csplade_postings-*"):
            leftover.unlink()
        yield temporary
        if temporary.exists():
            os.replace(temporary, directory / name)
            sync(directory)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        with contextlib.suppress(OSError):  # removed while it is held, as in workspace()
            os.unlink(lock.lock_file)
        lock.release()


def _measure(vectors: EncodedVectors, verbose: bool) -> tuple[PackedStrings, np.ndarray, int]:
    """Return docnos, postings of each column, and the largest impact."""
    docnos = PackedStrings()
    counts, largest = np.zeros(len(vectors.vocabulary), dtype=np.int64), 1
    bar = pt.tqdm(total=len(vectors), desc="counting postings", unit="d", disable=not verbose)
    for names, block in vectors.blocks():
        docnos.extend(names)
        if block.nnz:
            largest = max(largest, _check(block, names))
            counts += np.bincount(block.indices, minlength=len(counts))
        bar.update(len(names))
    bar.close()
    return docnos, counts, largest


def _check(block: csr_matrix, docnos: Sequence[str]) -> int:
    """Return the largest impact of a block; refuse what is none."""
    bad = ~((block.data >= 1) & (block.data <= MAX_IMPACT))
    if block.data.dtype.kind not in "iub":
        bad |= block.data != np.floor(block.data)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        docno = docnos[int(np.searchsorted(block.indptr, at, side="right")) - 1]
        raise DataError(
            f"document {docno!r} has the impact {block.data[at]}: whole numbers from 1 to {MAX_IMPACT:,} are needed"
        )
    in_order = block if block.has_sorted_indices else block.sorted_indices()
    if not in_order.has_canonical_format:
        raise DataError(f"one of the documents from {docnos[0]!r} on has a term twice: call sum_duplicates() on their matrix")
    return int(block.data.max())


def _pieces(vectors: EncodedVectors, what: str, verbose: bool) -> Iterator[csr_matrix]:
    """Yield the vectors in matrices of at most ``_PIECE`` postings, or one document."""
    bar = pt.tqdm(total=len(vectors), desc=what, unit="d", disable=not verbose)
    for _, block in vectors.blocks():
        for rows in row_pieces(block.indptr, _PIECE):
            yield block[rows]
            bar.update(rows.stop - rows.start)
    bar.close()


def _scatter(piece: csr_matrix, first: int, cursors: np.ndarray, writer: PostingsWriter) -> None:
    """Append the postings of some documents, from number ``first`` on, to their lists."""
    by_term = piece.tocsc()  # keeps the order of the documents
    counts = np.diff(by_term.indptr)
    places = np.repeat(cursors - by_term.indptr[:-1], counts) + np.arange(by_term.nnz)
    writer.docids[places] = by_term.indices + first
    writer.impacts[places] = by_term.data
    cursors += counts
