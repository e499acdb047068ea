"""What an index offers beside its retriever: guides, and scores of given documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyterrier as pt

from ._guide import GuideSource, write_guide
from ._guide_sources import LearnedSource, counts_source, terrier_source
from ._postings import Postings
from ._scorer import PostingsScorer


class Searchable:
    """Methods of :class:`ImpactIndex` that need its arrays of postings."""

    def add_guide(
        self: Any,  # an ImpactIndex
        source: Iterable[Mapping[str, Any]] | pt.terrier.TerrierIndex,
        name: str = "bm25",
        *,
        k1: float = 0.82,
        b: float = 0.68,
        verbose: bool = False,
    ) -> None:
        """Add a guide for ``retriever(algorithm="guided", guide=name)``; one of the same name is replaced.

        Args:
            source: Documents with ``docno`` and ``toks_tf`` (from ``csplade.doc_encoder(counts=True)``), for BM25 over the
                tokens of the language model, of which those that differ in case or a leading space count as one; a Terrier
                index of text, for its BM25, found by docno and by words that are single tokens; or another ImpactIndex with
                the same terms, found by docno.
            name: Letters, digits, - and _.
            k1: Of BM25; 0.82 and b=0.68 are those of Mallia et al.
            b: Of BM25.
            verbose: Whether to show a progress bar.

        Raises:
            DataError: A document has no counts, stands twice, or is not in the index.
            ImpactIndexError: An index cannot be read, or the guide not be written.
        """
        postings = self.postings(verbose=verbose)
        write_guide(postings, self.directory, name, _source(postings, source, k1, b, verbose), verbose=verbose)

    def scorer(self: Any, *, verbose: bool = False) -> PostingsScorer:
        """Return a transformer that scores given documents for queries with ``query_toks``, by dot product, without Java.

        Example::

            pipeline = bm25 % 100 >> csplade.query_encoder() >> index.scorer()

        Args:
            verbose: Whether to show a progress bar.
        """
        return PostingsScorer(self, verbose=verbose)


def _source(postings: Postings, source: Any, k1: float, b: float, verbose: bool) -> GuideSource:
    if hasattr(source, "postings"):
        return LearnedSource(postings, source.postings(verbose=verbose))
    if isinstance(source, pt.terrier.TerrierIndex):
        return terrier_source(postings, Path(str(source.path)), k1, b, verbose=verbose)
    return counts_source(postings, pt.tqdm(source, desc="counts", unit="d", disable=not verbose), k1, b)
