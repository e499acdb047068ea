"""A Terrier index of impacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt
from pyterrier.terrier import TerrierModel

from ._artifact import ImpactArtifact
from ._contract import Contract
from ._errors import ImpactIndexError
from ._indexer import ImpactIndexer
from ._java import start, summary
from ._manifest import check_all, check_on_opening, has_manifest, read_whole
from ._metadata import read_contract, read_metadata
from ._retriever import ImpactRetriever
from ._spool import OnDuplicate
from ._vectors import EncodedVectors
from .search._algorithm import algorithm as make_algorithm
from .search._opening import open_postings
from .search._order import bisect, given_order, write_order
from .search._postings import POSTINGS_FILE, Postings, index_identity
from .search._retriever import PostingsRetriever
from .search._searchable import Searchable

# Structures that Terrier would otherwise open at first use, perhaps after another process has replaced the index.
_STRUCTURES = ("lexicon", "inverted", "document", "meta")


class ImpactIndex(Searchable, ImpactArtifact):
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

    def __init__(self, path: str | Path, *, memory: bool = False) -> None:
        """Name an index, which need not exist yet.

        Args:
            path: Its directory.
            memory: Whether to load it into memory to search it.
        """
        super().__init__(path, memory=memory)
        self._index_obj: Any = None
        self._contract: Contract | None = None
        self._identity_of_index_obj = ""
        self._postings: Postings | None = None

    @property
    def contract(self) -> Contract | None:
        """The contract of the encoder of the documents; None if it is unknown or nothing is built."""
        return read_contract(self.directory) if self._index_obj is None else self._contract

    def verify(self) -> None:
        """Compare every file with the manifest, and the postings with their own: size and SHA-256. Reads the whole index.

        Raises:
            ImpactIndexError: A file is missing or has changed (names it), or there is no index or no manifest.
        """
        self._check_built()
        read_whole(self.directory, lambda: check_all(self.directory))
        if (self.directory / POSTINGS_FILE).exists():
            Postings(self.directory / POSTINGS_FILE).file.verify()

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

    def postings(self, *, verbose: bool = False) -> Postings:
        """Return the postings as arrays, opened at first use; the first time they are built, which needs no Java.

        Args:
            verbose: Whether to show a progress bar while they are built.

        Raises:
            ImpactIndexError: There is no index, or it or its postings are damaged, or they cannot be written beside it.
        """
        if self._postings is None:
            self._check_built()
            self._postings = read_whole(
                self.directory,
                lambda: open_postings(self.directory, read_contract(self.directory), memory=self.memory, verbose=verbose),
            )
        return self._postings

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

    def read_field(self, field: str, docids: np.ndarray, index: str | None = None) -> np.ndarray:
        """Read a metadata field of documents. Needs Java.

        Args:
            field: Its name.
            docids: Numbers of documents, of which some may stand several times.
            index: Identity of the index that they come from; None for the one that Terrier has opened.

        Returns:
            Strings, in an array of objects.

        Raises:
            ImpactIndexError: There is no such field, or the index was built again between the two.
        """
        stored = list(self.meta_index().getKeys())
        if field not in stored:
            raise ImpactIndexError(f"{self.path} has no field {field!r}, only {', '.join(stored)}")
        if index not in (None, self._identity_of_index_obj):
            raise ImpactIndexError(f"{self.path} was built again while it was open: call close(), and search again")
        distinct, places = np.unique(docids, return_inverse=True)  # each string crosses from Java once
        values: np.ndarray = np.array(self.meta_index().getItems(field, distinct.tolist()), dtype=object)[places]
        return values

    def index_obj(self) -> Any:
        """Return the Java index object, opened at first use.

        Raises:
            ImpactIndexError: There is no index, or its files do not match its manifest.
        """
        if self._index_obj is None:
            self._index_obj, self._contract = read_whole(self.directory, self._open)
        return self._index_obj

    def close(self) -> None:
        """Forget the opened index, so that the next use opens what is at the path then."""
        self._index_obj = self._index_ref = self._postings = None

    def _check_built(self) -> None:
        if not self.built():
            raise ImpactIndexError(f"no index at {self.path}: build it with (csplade.doc_encoder() >> index).index(...)")

    def _open(self) -> tuple[Any, Contract | None]:
        self._check_built()
        if has_manifest(self.directory) or read_metadata(self.directory):
            check_on_opening(self.directory)
        start()
        try:
            index = pt.terrier.IndexFactory.of(pt.terrier.J.IndexRef.of(str(self.directory)), memory=self.memory)
            for structure in _STRUCTURES:
                index.getIndexStructure(structure)
        except Exception as error:
            raise ImpactIndexError(f"Terrier cannot open {self.path}: {summary(error)}") from error
        self._identity_of_index_obj = index_identity(self.directory)
        return index, read_contract(self.directory)
