"""From a spool of checked documents to the files of a Terrier index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from ._documents import check_order
from ._spool import Spool
from .terrier import Transposition, write_direct, write_inverted, write_lexicon, write_meta, write_properties


def write_terrier_index(spool: Spool, directory: Path, advance: Callable[[int], object]) -> None:
    """Write all files of an index but the manifest.

    Args:
        spool: The documents.
        directory: An empty directory.
        advance: Called with the number of postings that are done; each posting comes twice.

    Raises:
        DataError: Two terms cannot stand in one index.
        OSError: A file cannot be written.
    """
    terms, numbers = _number_terms(spool)
    transposition = Transposition(directory.parent / "transposed", len(terms))
    write_direct(_renumbered(spool, numbers, len(terms)), directory, transposition, advance)
    spool.remove()
    statistics = write_inverted(transposition, directory, advance)
    write_lexicon(terms, statistics, directory)
    docnos = spool.docnos
    meta = write_meta(spool.records(), docnos, spool.lengths, directory)
    write_properties(
        directory,
        documents=len(docnos),
        terms=len(terms),
        postings=int(statistics.documents.sum()),
        tokens=int(statistics.tokens.sum()),
        meta=meta,
    )


def _number_terms(spool: Spool) -> tuple[list[str], np.ndarray]:
    """Return the terms that documents have, in the order of the lexicon, and the place there of each column of the spool."""
    used = np.zeros(len(spool.terms), dtype=bool)
    for shard in spool.shards():
        used[shard.indices] = True
    # Python compares strings by code points, which is the order of UTF-8.
    terms = sorted(term for term, number in spool.terms.items() if used[number])
    check_order(terms)
    numbers = np.full(len(used), -1, dtype=np.int32)
    numbers[[spool.terms[term] for term in terms]] = np.arange(len(terms))
    return terms, numbers


def _renumbered(spool: Spool, numbers: np.ndarray, terms: int) -> Iterator[csr_matrix]:
    for shard in spool.shards():
        yield csr_matrix((shard.data, numbers[shard.indices], shard.indptr), shape=(shard.shape[0], terms))
