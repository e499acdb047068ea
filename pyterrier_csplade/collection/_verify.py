"""The check of everything in an encoded collection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyterrier_csplade._errors import CollectionError

from ._documents import Docnos
from ._opened import OpenCollection
from ._shard import REMEDY, ShardFile


def verify(directory: Path) -> OpenCollection:
    """Compare all files with the manifest, and prove that the vectors are what an engine can take.

    Returns:
        The collection.

    Raises:
        CollectionError: There is no collection, it is not complete, or files are damaged; names them.
    """
    collection = OpenCollection(directory, digests=True)
    docnos, position, postings = Docnos(), 1, 0
    for shard in collection:
        docnos.add(shard.docnos, position)
        position += len(shard)
        postings += check_vectors(shard)
    if postings != collection.totals["postings"]:
        raise CollectionError(f"{directory} holds {postings:,} postings, not {collection.totals['postings']:,}: {REMEDY}")
    return collection


def check_vectors(shard: ShardFile) -> int:
    """Prove that the vectors of a shard are what an engine can take.

    Returns:
        Postings of the shard.

    Raises:
        CollectionError: They are not.
    """
    matrix = shard.rows(0, len(shard))
    if not (np.all(matrix.data > 0) and np.all(np.isfinite(matrix.data))):
        raise CollectionError(f"{shard.path} holds a weight that is not above 0 and finite: {REMEDY}")
    same_row = np.ones(max(matrix.nnz - 1, 0), dtype=bool)
    same_row[matrix.indptr[1:-1][(matrix.indptr[1:-1] > 0) & (matrix.indptr[1:-1] < matrix.nnz)] - 1] = False
    if np.any(np.diff(matrix.indices)[same_row] <= 0):
        raise CollectionError(f"{shard.path} holds a term twice in one document, or terms out of order: {REMEDY}")
    return matrix.nnz
