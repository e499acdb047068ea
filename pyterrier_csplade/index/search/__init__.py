"""Search over arrays of postings, beside Terrier's structures: no Java, no torch.

``ImpactIndex.retriever(algorithm=...)`` makes the retrievers. An index's postings stand in one file of its directory, which
:func:`write_postings` writes and :class:`Postings` opens.
"""

from __future__ import annotations

from .builder import write_postings
from .postings import POSTINGS_FILE, Postings

__all__ = ["POSTINGS_FILE", "Postings", "write_postings"]
