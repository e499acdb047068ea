"""A look at a new index through Terrier's own eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyterrier as pt

from ._errors import ImpactIndexError
from ._java import summary
from ._spool import Spool

# Documents that are looked at, spread over the collection (ours).
_SAMPLE = 5


def read_back(directory: Path, spool: Spool) -> None:
    """Compare some documents as Terrier reads them with what went in: what another version of Terrier reads otherwise shows.

    Args:
        directory: Of the index.
        spool: What was indexed.

    Raises:
        ImpactIndexError: Terrier cannot read the index, or finds something else.
    """
    docnos, counts = spool.docnos, spool.counts
    try:
        index = pt.terrier.IndexFactory.of(str(directory))
        statistics = index.getCollectionStatistics()
        found: Any = statistics.getNumberOfDocuments(), statistics.getNumberOfPointers()
        expected: Any = len(docnos), int(counts.sum())
        for docid in range(0, len(docnos), max(1, len(docnos) // _SAMPLE)):
            found += _document(index, docid, docnos[docid])
            expected += docnos[docid], docid, int(counts[docid]), True
        index.close()
    except Exception as error:
        raise ImpactIndexError(f"Terrier cannot read the index that was built: {summary(error)}; report this") from error
    if found != expected:
        raise ImpactIndexError(f"Terrier reads {found} from the index that was built, not {expected}: report this")


def _document(index: Any, docid: int, docno: str) -> tuple[str, int, int, bool]:
    """Return docno, docid by docno, postings, and whether the postings of its rarest term agree with its own."""
    entry = index.getDocumentIndex().getDocumentEntry(docid)
    postings = _postings(index.getDirectIndex(), entry) if entry.getNumberOfEntries() else {}
    entries = [index.getLexicon().getLexiconEntry(termid).getValue() for termid in postings]
    rarest = min(entries, key=lambda entry: entry.getDocumentFrequency(), default=None)
    agrees = sum(postings.values()) == entry.getDocumentLength()
    if rarest is not None:
        iterator = index.getInvertedIndex().getPostings(rarest)
        agrees &= iterator.next(docid) == docid and iterator.getFrequency() == postings[rarest.getTermId()]
    meta = index.getMetaIndex()
    return meta.getItem("docno", docid), meta.getDocument("docno", docno), len(postings), agrees


def _postings(structure: Any, pointer: Any) -> dict[int, int]:
    iterator = structure.getPostings(pointer)
    return {iterator.getId(): iterator.getFrequency() for _ in iter(iterator.next, iterator.EOL)}
