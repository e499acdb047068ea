"""A Terrier index of impacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyterrier as pt
from pyterrier.terrier import TerrierModel

from pyterrier_csplade.index.search.algorithm import algorithm as make_algorithm
from pyterrier_csplade.index.search.guided import GuideSource, write_guide
from pyterrier_csplade.index.search.order import bisect, given_order, write_order
from pyterrier_csplade.index.search.postings import Postings
from pyterrier_csplade.index.search.term_counts import LearnedSource, counts_source, terrier_source
from pyterrier_csplade.vectors.matrices import EncodedVectors

from .indexer import ImpactIndexer
from .postings_retriever import PostingsRetriever, PostingsScorer
from .spool import OnDuplicate
from .stored import StoredIndex
from .terrier_retriever import ImpactRetriever


class ImpactIndex(StoredIndex):
    """A Terrier index of impacts, built safely and searched exactly.

    On disk it is a plain Terrier index: ``pt.Artifact.load`` opens it without this package. Its ``pt_meta.json`` also holds the
    contract of the encoder of the documents, and ``csplade_manifest.json`` the size and SHA-256 of every file. Opening it to
    search compares the sizes, and the digests too up to 256 MiB; :meth:`verify` always compares both.

    Example::

        index = ImpactIndex("my.index")
        (csplade.doc_encoder() >> index).index(dataset.get_corpus_iter())
        pipeline = csplade.query_encoder() >> index.retriever()
    """

    schematic = {"label": "ImpactIndex", "help_url": None}

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> ImpactIndex:
        """Build the index from documents with ``docno`` and ``toks``; see :meth:`toks_indexer` for the rules and options.

        Args:
            iter: The documents.
            **kwargs: None are known.

        Returns:
            This index.
        """
        return self.toks_indexer().index(iter, **kwargs)

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return self.toks_indexer().index_inputs()

    def toks_indexer(  # type: ignore[override]  # one thread: more would make the order of the documents random
        self,
        *,
        meta: Iterable[str] = ("docno",),
        overwrite: bool = False,
        on_duplicate: OnDuplicate = "refuse",
        max_empty: float = 0.5,
        verbose: bool = False,
    ) -> ImpactIndexer:
        """Return an indexer of documents with ``docno`` and ``toks`` (term to impact).

        Weights are rounded half up; those that become 0, and those below, are left out. Refused, with a message that names the
        document, is what Terrier would change silently: a docno or term that it cannot store exactly (terms have 1 to 60 bytes
        of UTF-8), a docno that comes again, a weight that is not finite, an impact above 2**31 - 1.

        Args:
            meta: Metadata fields to store; documents must have them as str. Their lengths are measured, so the lengths of a
                dict, as :class:`pyterrier.terrier.TerrierIndex` takes it, are not used.
            overwrite: Whether to replace an index. The old one stays whole and usable until the new one is.
            on_duplicate: "refuse" a docno that comes again, "skip" the later document, or keep the "last" one.
            max_empty: Largest share of documents without any impact. They are indexed, with a warning; a larger share is
                refused, because it is the mark of an encoder that does not work. 0.5 is ours.
            verbose: Whether to show a progress bar.

        Returns:
            The indexer.
        """
        return ImpactIndexer(
            self, meta=meta, overwrite=overwrite, on_duplicate=on_duplicate, max_empty=max_empty, verbose=verbose
        )

    def index_vectors(
        self,
        encoded: EncodedVectors,
        *,
        meta: Mapping[str, Iterable[str]] | None = None,
        overwrite: bool = False,
        on_duplicate: OnDuplicate = "refuse",
        max_empty: float = 0.5,
        verbose: bool = False,
    ) -> ImpactIndex:
        """Build the index from encoded documents, matrices of weights or impacts, without a dictionary for each.

        The result and the rules are those of :meth:`toks_indexer`.

        Args:
            encoded: The documents, for example an encoded collection or :class:`MatrixVectors`.
            meta: Metadata fields to store beside the docno: name to values, one for each document.
            overwrite: Whether to replace an index.
            on_duplicate: "refuse" a docno that comes again, "skip" the later document, or keep the "last" one.
            max_empty: Largest share of documents without any impact.
            verbose: Whether to show progress bars.

        Returns:
            This index.

        Raises:
            DataError: A document cannot be indexed exactly (names it), or there is nothing to index.
            ImpactIndexError: There is an index already, or another process is writing one.
            OSError: The disk is full.
        """
        fields = dict(meta or {})
        indexer = self.toks_indexer(
            meta=fields, overwrite=overwrite, on_duplicate=on_duplicate, max_empty=max_empty, verbose=verbose
        )
        return indexer.index_vectors(encoded, fields)

    def indexer(self, **kwargs: Any) -> ImpactIndexer:
        """Return :meth:`toks_indexer`: an impact index has no text to tokenise."""
        return self.toks_indexer(**kwargs)

    def retriever(  # type: ignore[override]
        self,
        model: TerrierModel | str | None = None,
        model_args: dict[str, Any] | None = None,
        *,
        algorithm: str = "terrier",
        num_results: int = 1000,
        exact_scores: bool = True,
        include_fields: list[str] | None = None,
        threads: int = 1,
        verbose: bool = False,
        **options: Any,
    ) -> pt.Transformer:
        """Return a retriever of queries with ``query_toks`` (term to weight): by default by dot product.

        Args:
            model: A weighting model of Terrier in place of the dot product.
            model_args: Arguments of that model.
            algorithm: "terrier", or one that searches arrays of postings, which are built beside Terrier's files at first use,
                and needs no Java: "exhaustive"; with numba "maxscore" and "bmp", exact as well, and "guided", which is not.
            num_results: Documents for each query, at most.
            exact_scores: Whether Terrier's scores are the dot product; its own are divided by the query's largest weight.
            include_fields: Metadata fields to return beside the docno. Reading them needs Java.
            threads: Threads to search with.
            verbose: Whether to show a progress bar.
            **options: For searches of arrays: ``max_terms``, the heaviest terms of a query to keep; ``max_postings`` and
                ``max_ms``, the postings and milliseconds after which a search is cut, which a column ``query_cut`` then says;
                and options of the algorithm.

        Returns:
            The retriever.
        """
        common: dict[str, Any] = {
            "num_results": num_results, "include_fields": include_fields, "threads": threads, "verbose": verbose
        }  # fmt: skip
        if algorithm != "terrier":
            if model is not None or not exact_scores:
                raise ValueError(f"algorithm {algorithm!r} has neither weighting models nor Terrier's scores")
            limits = {name: options.pop(name) for name in ("max_terms", "max_postings", "max_ms") if name in options}
            return PostingsRetriever(self, make_algorithm(algorithm, options), **limits, **common)
        if options:
            raise TypeError(f"Terrier has no option {next(iter(options))!r}: choose another algorithm")
        if not isinstance(model, (str, TerrierModel, type(None))):
            raise TypeError(f"model must be one of Terrier's, such as 'BM25', found {model!r}; num_results={model!r}?")
        if model is not None:
            return super().retriever(model, model_args, **common)
        return ImpactRetriever(self, exact_scores=exact_scores, **common)

    def reorder(self, docnos: Iterable[str] | None = None, *, verbose: bool = False) -> ImpactIndex:
        """Put similar documents side by side for ``algorithm="bmp"``; docids, docnos and the order of equal scores stay.

        Args:
            docnos: All documents in an order by subject; None finds one by recursive graph bisection, which needs numba.
            verbose: Whether to show a progress bar.

        Returns:
            This index. Retrievers that were made before keep the order that they have.
        """
        postings = self.postings(verbose=verbose)
        write_order(postings, bisect(postings, verbose=verbose) if docnos is None else given_order(postings, docnos))
        return self

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

    def scorer(self, *, verbose: bool = False) -> PostingsScorer:
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
