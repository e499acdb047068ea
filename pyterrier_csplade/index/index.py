"""A Terrier index of impacts: building, searching, reordering, and scoring documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pyterrier as pt
from pyterrier.terrier import TerrierModel

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade.index.search.algorithm import algorithm as make_algorithm
from pyterrier_csplade.index.search.guided import write_guide
from pyterrier_csplade.index.search.order import bisect, given_order, write_order
from pyterrier_csplade.index.search.term_counts import counts_source, learned_source, terrier_source
from pyterrier_csplade.vectors.matrices import EncodedVectors

from .fields import FieldLoader
from .indexer import ImpactIndexer
from .postings_retriever import PostingsRetriever, PostingsScorer, contributions
from .spool import OnDuplicate
from .stored import StoredIndex
from .terrier_retriever import ImpactRetriever


class ImpactIndex(StoredIndex):
    """A Terrier index of impacts, built safely and searched exactly.

    On disk it is a plain Terrier index, which ``pt.Artifact.load`` opens without this package. Its ``pt_meta.json`` also
    contains the contract of the document encoder, and ``csplade_manifest.json`` the size and SHA-256 of every file. Opening the
    index compares the sizes, and for up to 256 MiB also the digests; :meth:`verify` always compares both.

    Example::

        index = ImpactIndex("my.index")
        (csplade.doc_encoder() >> index).index(dataset.get_corpus_iter())
        pipeline = csplade.query_encoder() >> index.retriever()
    """

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> ImpactIndex:
        """Build the index from documents with ``docno`` and ``toks``, and return it; :meth:`toks_indexer` explains the rules.

        Args:
            iter: The documents.
            **kwargs: Not supported; :meth:`toks_indexer` takes options.
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

        Weights are rounded half up; weights that become 0 or less are left out. The indexer refuses whatever Terrier would
        change silently, with a message that names the document: a docno or term that Terrier cannot store exactly (terms have 1
        to 60 bytes of UTF-8), a repeated docno, a weight that is not finite, an impact above 2**31 - 1.

        Args:
            meta: Metadata fields to store, which documents must have as str. The indexer measures their lengths and ignores the
                lengths in a dict, which :class:`pyterrier.terrier.TerrierIndex` needs.
            overwrite: Whether to replace an existing index. The old index stays usable until the new one is complete.
            on_duplicate: "refuse" a repeated docno, "skip" the later document, or keep the "last" one.
            max_empty: Maximum share of documents without any impact. They are indexed with a warning. A larger share is an
                error, because it suggests that the encoder does not work. The default is our choice (not measured).
            verbose: Whether to show a progress bar.
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
        """Build the index from matrices of weights or impacts, without a dictionary for each document, and return it.

        The result and the rules are the same as with :meth:`toks_indexer`.

        Args:
            encoded: The documents, for example an encoded collection or :class:`MatrixVectors`.
            meta: Metadata fields to store besides the docno: name to values, one for each document.
            overwrite: Whether to replace an existing index.
            on_duplicate: "refuse" a repeated docno, "skip" the later document, or keep the "last" one.
            max_empty: Maximum share of documents without any impact.
            verbose: Whether to show progress bars.

        Raises:
            DataError: A document cannot be indexed exactly (the message names it), or there is nothing to index.
            ImpactIndexError: The index exists already, or another process is writing it.
            OSError: The disk is full.
        """
        fields = dict(meta or {})
        indexer = self.toks_indexer(
            meta=fields, overwrite=overwrite, on_duplicate=on_duplicate, max_empty=max_empty, verbose=verbose
        )
        return indexer.index_vectors(encoded, fields)

    def indexer(self, **kwargs: Any) -> ImpactIndexer:
        """Return :meth:`toks_indexer`, because an impact index has no text to tokenise."""
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
        """Return a retriever of queries with ``query_toks`` (term to weight) by dot product.

        Args:
            model: None or "Tf", the dot product with Terrier's own scores. Terrier's other models are refused, because they
                would interpret impacts as counts of words.
            model_args: Must be None; "Tf" has no arguments.
            algorithm: "terrier", or an algorithm that searches arrays of postings without Java: "exhaustive"; with numba also
                "maxscore" and "bmp", which are exact, and "guided", which is not. The arrays are built next to Terrier's files
                at first use.
            num_results: Maximum number of documents for each query.
            exact_scores: Whether scores are the dot product; Terrier's own scores are divided by the query's largest weight.
            include_fields: Metadata fields to return besides the docno. Reading them needs Java.
            threads: Number of threads to search with.
            verbose: Whether to show a progress bar.
            **options: For algorithms other than "terrier": ``max_terms``, the number of heaviest query terms to keep;
                ``max_postings`` and ``max_ms``, the postings and milliseconds after which a search is cut, as the column
                ``query_cut`` then shows; and the options of the algorithm.
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
            raise TypeError(f"model must be None or 'Tf', found {model!r}; did you mean num_results={model!r}?")
        if model not in (None, "Tf", TerrierModel.tf) or model_args:
            raise _no_text(self, f"retriever({model!r})")
        return ImpactRetriever(self, exact_scores=exact_scores and model is None, **common)

    def text_loader(self, fields: list[str] | str = "*", *, verbose: bool = False) -> FieldLoader:
        """Return a transformer that adds metadata fields to results with ``docno`` or ``docid``.

        Args:
            fields: The fields; "*" for all.
            verbose: Has no effect.
        """
        return FieldLoader(self, fields=fields, verbose=verbose)

    def reorder(self, docnos: Iterable[str] | None = None, *, verbose: bool = False) -> ImpactIndex:
        """Place similar documents side by side for ``algorithm="bmp"``; docids, docnos and the order of equal scores are kept.

        Args:
            docnos: All docnos, ordered by subject; None computes an order by recursive graph bisection, which needs numba.
            verbose: Whether to show a progress bar.

        Returns:
            This index. Its retrievers use the order from their next search on.
        """
        postings = self.postings(verbose=verbose)
        order = bisect(postings, verbose=verbose) if docnos is None else given_order(postings, docnos)
        self.open().change(lambda: write_order(postings, order), postings)
        return self

    def add_guide(
        self,
        source: Iterable[Mapping[str, Any]] | pt.terrier.TerrierIndex,
        name: str = "bm25",
        *,
        k1: float = 0.82,
        b: float = 0.68,
        verbose: bool = False,
    ) -> None:
        """Add a guide for ``retriever(algorithm="guided", guide=name)``, or replace the guide of that name.

        Args:
            source: The source of the guide's impacts. Documents with ``docno`` and ``toks_tf`` (from
                ``csplade.doc_encoder(counts=True)``) provide BM25 over the language model's tokens, where tokens that differ
                only in case or a leading space are the same. A Terrier index of text provides its BM25 for words that are
                single tokens. Another ImpactIndex with the same terms provides its impacts. Both kinds of index are matched by
                docno.
            name: Name of the guide, of letters, digits, ``-`` and ``_``.
            k1: BM25's k1; the defaults of ``k1`` and ``b`` are from Mallia et al. (SIGIR 2022).
            b: BM25's b.
            verbose: Whether to show a progress bar.

        Raises:
            DataError: A document has no counts, appears twice, or is not in the index.
            ImpactIndexError: An index cannot be read, or the guide cannot be written.
        """
        postings = self.postings(verbose=verbose)
        if isinstance(source, StoredIndex):
            guide = learned_source(postings, source.postings(verbose=verbose))
        elif isinstance(source, pt.terrier.TerrierIndex):
            guide = terrier_source(postings, Path(str(source.path)), k1, b, verbose=verbose)
        else:
            guide = counts_source(postings, pt.tqdm(source, desc="counts", unit="d", disable=not verbose), k1, b)
        self.open().change(lambda: write_guide(postings, name, guide, verbose=verbose), postings)

    def explain(self, query_toks: Mapping[str, float], docno: str) -> dict[str, float]:
        """Return how much each matching term adds to the score of an indexed document, the largest first; needs no Java.

        :meth:`CSPLADE.explain` does the same for two texts. The values add up to the score of :meth:`retriever`.

        Example::

            toks = csplade.query_encoder()(topics)["query_toks"].iloc[0]
            index.explain(toks, "d1")

        Args:
            query_toks: The query, term to weight.
            docno: The document.

        Raises:
            ContractError: The query comes from another encoder than the documents.
            DataError: The document is not in the index, or a weight is negative or not finite.
            ImpactIndexError: There is no index, or it is damaged.
        """
        return contributions(self.open(), query_toks, docno, str(self.path))

    def scorer(self, *, verbose: bool = False) -> PostingsScorer:
        """Return a transformer that scores given documents by the dot product with ``query_toks``, without Java.

        Example::

            pipeline = bm25 % 100 >> csplade.query_encoder() >> index.scorer()

        Args:
            verbose: Whether to show a progress bar.
        """
        return PostingsScorer(self, verbose=verbose)


def _refuse(name: str) -> None:
    """Make ImpactIndex refuse a method of TerrierIndex that needs counts of words."""

    def method(self: ImpactIndex, *args: Any, **kwargs: Any) -> NoReturn:
        raise _no_text(self, f"{name}()")

    method.__name__ = name
    method.__doc__ = "Raise ImpactIndexError, because an index of impacts has no counts of words."
    setattr(ImpactIndex, name, method)


def _no_text(index: ImpactIndex, call: str) -> ImpactIndexError:
    return ImpactIndexError(
        f"{index.path} contains impacts of a language model's tokens, but {call} needs counts of words: search the index with "
        f"csplade.query_encoder() >> index.retriever(), and build a TerrierIndex of the texts for {call}"
    )


for _name in ("bm25", "dph", "pl2", "dirichlet_lm", "hiemstra_lm", "tf_idf", "rm3", "bo1", "kl", "sdm"):
    _refuse(_name)
