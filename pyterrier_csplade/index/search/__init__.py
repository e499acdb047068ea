"""Search over arrays of postings, next to Terrier's structures, without Java.

``ImpactIndex.retriever(algorithm=...)`` creates the retrievers. The postings of an index are in one file of its directory,
which :func:`write_postings` writes and :class:`Postings` opens.
"""

from __future__ import annotations

from .algorithm import Algorithm, Budget, Hits, Searcher, algorithm
from .blocks import open_blocks
from .builder import write_postings
from .guided import read_guide, write_guide
from .order import bisect, given_order, read_order, write_order
from .postings import POSTINGS_FILE, Postings, Query
from .term_counts import counts_source, learned_source, terrier_source

__all__ = [
    "POSTINGS_FILE",
    "Algorithm",
    "Budget",
    "Hits",
    "Postings",
    "Query",
    "Searcher",
    "algorithm",
    "bisect",
    "counts_source",
    "given_order",
    "learned_source",
    "open_blocks",
    "read_guide",
    "read_order",
    "terrier_source",
    "write_guide",
    "write_order",
    "write_postings",
]
