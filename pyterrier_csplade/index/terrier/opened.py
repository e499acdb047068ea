"""An index as opened by Terrier."""

from __future__ import annotations

import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade.vectors.vocabulary import is_index_term

from .java import opening, start, summary

# Terrier opens structures at first use, when another process may have replaced the index; so they are opened here.
_STRUCTURES = ("lexicon", "inverted", "document", "meta")


class OpenTerrier:
    """An index as opened by Terrier.

    Terrier's structures are not safe for threads unless ``concurrent`` is set: hold ``lock`` while Java reads the index. Java
    calls need further care: pyjnius keeps the receiver of a call in an object that all threads share until Java is called, so
    assign the receiver to a variable, and compute arguments before the call.

    Attributes:
        index: Java's index object.
        retriever: Terrier's retriever by term frequency, with its manager and controls.
        documents: The number of documents.
        fields: The names of the metadata fields.
        lock: Held while Java reads the index.
    """

    def __init__(self, directory: Path, name: Path, *, memory: bool, concurrent: bool = False) -> None:
        """Open an index, for several threads if ``concurrent``; ``name`` is its name in error messages.

        Raises:
            ImpactIndexError: Terrier cannot open the index.
        """
        start()
        self.lock = threading.RLock()
        try:
            with opening:
                reference = pt.terrier.J.IndexRef.of(str(directory))
                self.index: Any = pt.terrier.IndexFactory.of(reference, memory=memory)
                self._closing = _close_with(self, self.index)
                for structure in _STRUCTURES:
                    self.index.getIndexStructure(structure)
                self.retriever = _retriever(self.index, concurrent)
                self.documents: int = self.index.getCollectionStatistics().getNumberOfDocuments()
                self.fields: list[str] = list(self.index.getMetaIndex().getKeys())
        except Exception as error:
            raise ImpactIndexError(f"Terrier cannot open {name}: {summary(error)}") from error
        # Whether the index has a term, for the terms of past queries, because each look-up is a call into Java.
        self._known: dict[str, bool] = {}

    def lend(self) -> Any:
        """Return Java's index object for use by others; from now on only :meth:`release` closes it."""
        self._closing.detach()
        return self.index

    def release(self) -> None:
        """Let Java's index object be closed as soon as this object is no longer used."""
        if not self._closing.alive:
            self._closing = _close_with(self, self.index)

    def known(self, terms: set[str]) -> dict[str, bool]:
        """Return whether the index has these and previously requested terms."""
        with self.lock:
            lexicon = self.index.getLexicon()
            for term in terms.difference(self._known):
                self._known[term] = is_index_term(term) and term in lexicon
            return self._known

    def read_field(self, field: str, docids: np.ndarray) -> np.ndarray:
        """Return a metadata field of documents, whose numbers may repeat: object array of str."""
        distinct, places = np.unique(docids, return_inverse=True)  # each string crosses from Java once
        numbers = distinct.tolist()
        with self.lock:
            meta = self.index.getMetaIndex()
            items = meta.getItems(field, numbers)
        values: np.ndarray = np.array(items, dtype=object)[places]
        return values


def _retriever(index: Any, concurrent: bool) -> pt.terrier.Retriever:
    with warnings.catch_warnings():
        # PyTerrier calls threads experimental because its rows are not in the order of the queries; these rows are.
        warnings.filterwarnings("ignore", message="Multi-threaded|Upgrading")
        return pt.terrier.Retriever(index, wmodel="Tf", threads=2 if concurrent else 1)


def _close_with(owner: object, index: Any) -> Any:
    """Close Java's index object when its owner is no longer used; otherwise its files would stay open."""
    closing = weakref.finalize(owner, _close, index)
    closing.atexit = False
    return closing


def _close(index: Any) -> None:
    index.close()
