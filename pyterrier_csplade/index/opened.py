"""One version of an index, opened for reading."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pyterrier_csplade._errors import CspladeError, ImpactIndexError
from pyterrier_csplade.index.search.algorithm import Algorithm, Searcher
from pyterrier_csplade.index.search.builder import open_postings
from pyterrier_csplade.index.search.postings import Postings, index_identity
from pyterrier_csplade.index.terrier.opened import OpenTerrier
from pyterrier_csplade.index.terrier.strangers import check_java_files
from pyterrier_csplade.storage.manifest import check_on_opening, has_manifest, read_whole
from pyterrier_csplade.vectors.contract import Contract

from .metadata import read_contract, read_metadata

T = TypeVar("T")

# Maximum number of cached searchers, of which a guided one takes a byte for each posting; our choice (not measured).
_SEARCHERS = 8


class OpenIndex:
    """One version of an index, which threads may share.

    Its parts are opened at their first use, all from the version whose part was opened first: after the index was replaced,
    opening a further part is an error, and open parts stay as they are. Everything derived from the parts is cached here, under
    the parameters that it depends on, so that retrievers have no cache.

    Attributes:
        contract: The contract of the document encoder; None if unknown, and before the first part is opened.
        identity: Identifies the version; None before the first part is opened.
    """

    def __init__(self, directory: Path, name: Path, *, memory: bool) -> None:
        """Name an index, whose parts are opened later; ``name`` is its name in error messages."""
        self.contract: Contract | None = None
        self.identity: str | None = None
        self._directory = directory
        self._name = name
        self._memory = memory
        self._lock = threading.RLock()  # held while something is opened or derived
        self._postings: Postings | None = None
        self._numbers: dict[str, int] | None = None
        self._searchers: dict[Algorithm, Searcher] = {}
        self._terriers: dict[bool, OpenTerrier] = {}

    def terrier(self, *, concurrent: bool = False) -> OpenTerrier:
        """Return the index as opened by Terrier, for one thread or, opened once more, for concurrent threads."""
        found = self._terriers.get(concurrent)
        if found is None:
            with self._lock:
                if concurrent not in self._terriers:
                    self._terriers[concurrent] = self._whole(lambda: self._open_terrier(concurrent=concurrent))
                found = self._terriers[concurrent]
        return found

    def postings(self, *, verbose: bool = False) -> Postings:
        """Return the postings as arrays, built first if they are missing."""
        if self._postings is None:
            with self._lock:
                if self._postings is None:
                    self._postings = self._whole(lambda: self._open_postings(verbose))
        return self._postings

    def searcher(self, algorithm: Algorithm) -> Searcher:
        """Return a searcher of the postings."""
        found = self._searchers.get(algorithm)
        if found is None:
            postings = self.postings()
            with self._lock:
                found = self._searchers.get(algorithm) or self._prepare(algorithm, postings)
                if len(self._searchers) == _SEARCHERS:
                    del self._searchers[next(iter(self._searchers))]
                self._searchers[algorithm] = found
        return found

    def numbers(self) -> dict[str, int]:
        """Return the number of each document by its docno."""
        if self._numbers is None:
            postings = self.postings()
            with self._lock:
                self._numbers = self._numbers or postings.documents()
        return self._numbers

    def read_field(self, field: str, docids: np.ndarray) -> np.ndarray:
        """Return a metadata field of documents, whose numbers may repeat, as an object array of str. Needs Java.

        Raises:
            ImpactIndexError: There is no such field, or the index was replaced before its fields were opened.
        """
        terrier = self.terrier()
        if field not in terrier.fields:
            raise ImpactIndexError(f"{self._name} has no field {field!r}, only {', '.join(terrier.fields)}")
        return terrier.read_field(field, docids)

    def corpus(self, *, return_toks: bool) -> Iterator[dict[str, Any]]:
        """Yield the documents with their docnos and impacts, or with their metadata fields."""
        # Opened separately, because the streams are not safe for threads.
        terrier = self._whole(self._open_terrier)

        def start() -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
            rows = terrier.index.get_corpus_iter(return_toks=return_toks)
            return rows, next(rows)  # next() opens the streams; every index has documents

        rows, first = self._whole(start)
        yield first
        yield from rows

    def change(self, write: Callable[[], None], postings: Postings) -> None:
        """Call ``write`` to write a file that belongs to ``postings``, and let all later searches use it.

        Raises:
            ImpactIndexError: The index was replaced.
        """
        if postings is not self._postings:
            raise self._replaced()
        self._check()
        write()
        with self._lock:
            self._searchers = {}

    def release(self) -> None:
        """Let Java close its files as soon as the last search has ended."""
        for terrier in self._terriers.values():
            terrier.release()

    def _whole(self, read: Callable[[], T]) -> T:
        """Open a part, complete and of this version."""

        def part() -> tuple[str, Contract | None, T]:
            identity, found = self._check(), read()
            return identity, read_contract(self._directory), found

        self.identity, self.contract, found = read_whole(self._directory, part)
        return found

    def _check(self) -> str:
        """Return the identity of the index at the path; raise ImpactIndexError if it is another version."""
        found = index_identity(self._directory)
        if self.identity not in (None, found):
            raise self._replaced()
        return found

    def _replaced(self) -> ImpactIndexError:
        return ImpactIndexError(f"{self._name} was built again while it was open: call close(), and search again")

    def _prepare(self, algorithm: Algorithm, postings: Postings) -> Searcher:
        try:
            return algorithm.prepare(postings)
        except (CspladeError, OSError):
            self._check()  # explains the error, if the index was replaced
            raise

    def _open_terrier(self, *, concurrent: bool = False) -> OpenTerrier:
        if self._check_files():
            check_java_files(self._directory)
        return OpenTerrier(self._directory, self._name, memory=self._memory, concurrent=concurrent)

    def _open_postings(self, verbose: bool) -> Postings:
        self._check_files(digests=False)  # postings have their own digests
        contract = read_contract(self._directory)
        return open_postings(self._directory, contract, memory=self._memory, verbose=verbose)

    def _check_files(self, *, digests: bool | None = None) -> bool:
        """Compare an index of this package with its manifest; return False for one of Terrier's own."""
        own = has_manifest(self._directory) or bool(read_metadata(self._directory))
        if own:
            check_on_opening(self._directory, digests=digests)
        return own
