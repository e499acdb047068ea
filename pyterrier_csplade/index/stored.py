"""An impact index on disk: its files, its contract and its card, and how it is checked and opened."""

from __future__ import annotations

import html
import os
import threading
from pathlib import Path
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade._settings import Settings
from pyterrier_csplade.index.search.postings import POSTINGS_FILE, Postings
from pyterrier_csplade.storage.manifest import check_on_opening, read_whole
from pyterrier_csplade.vectors.contract import Contract

from .metadata import read_contract, read_metadata
from .opened import OpenIndex

_CARD = """## Description

A Terrier index of learned sparse impacts, {documents:,} documents with {mean:.0f} terms each on average, built by
[pyterrier_csplade](https://arxiv.org/abs/2504.10816) {version}. {encoder}

## Usage

```python
from pyterrier_csplade import CSPLADE, ImpactIndex

index = ImpactIndex.{load}
index.verify()  # compares the SHA-256 of every file
csplade = CSPLADE({model!r})  # the model that encoded the documents; other models are refused
retriever = csplade.query_encoder() >> index.retriever()
retriever.search("how do sparse vectors work")
```

Without pyterrier_csplade, `pt.Artifact.{load}` opens it as a plain `pt.terrier.TerrierIndex`. Its `.tf()` ranks documents for
`query_toks` in the same order; its scores are the dot product divided by the query's largest weight.

## Benchmarks

Effectiveness was not measured when the index was built. `pt.Experiment([retriever], topics, qrels, ["nDCG@10"])` measures it.

## Reproduction

```python
index = ImpactIndex("my.index")
(csplade.doc_encoder() >> index).index(corpus_iter)  # dicts with docno and text
```

"""


class MadeByIndex(Settings, pt.Transformer):
    """Base class of transformers that a method of an index makes.

    Attributes:
        impact_index: The index.
    """

    _method: str

    def __init__(self, impact_index: StoredIndex) -> None:
        super().__init__()
        self.impact_index = impact_index

    def __str__(self) -> str:
        return self._named(self.impact_index.directory.name, *self._changed())

    def _maker(self) -> str:
        return f"{self.impact_index!r}.{self._method}"

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.impact_index,)


class StoredIndex(Settings, pt.terrier.TerrierIndex):
    """An impact index on disk, with all reading methods. :class:`ImpactIndex` adds building and searching."""

    def __init__(self, path: str | Path, *, memory: bool = False) -> None:
        """Name an index, which need not exist yet.

        Args:
            path: Its directory.
            memory: Whether to load it into memory for searching.
        """
        super().__init__(path, memory=memory)
        self._opened: OpenIndex | None = None
        self._lock = threading.Lock()

    @classmethod
    def coerce(cls, index_like: object) -> StoredIndex:
        """Return an index given as its path, as itself, or as a :class:`pyterrier.terrier.TerrierIndex` with a path.

        Raises:
            TypeError: It is another object.
        """
        if isinstance(index_like, StoredIndex):
            return index_like
        path = index_like.path if isinstance(index_like, pt.terrier.TerrierIndex) else index_like
        if not isinstance(path, (str, Path)):
            raise TypeError(f"expected an index or its path, found {index_like!r}")
        return cls(path)

    @property
    def directory(self) -> Path:
        """The directory of the index, absolute and free of links."""
        return Path(os.path.realpath(str(self.path)))

    @property
    def contract(self) -> Contract | None:
        """The contract of the document encoder; None if it is unknown or the index is not built."""
        opened = self._opened
        return read_contract(self.directory) if opened is None or opened.identity is None else opened.contract

    def open(self) -> OpenIndex:
        """Return the version of the index that is open; the first call, and the first after :meth:`close`, opens it.

        Raises:
            ImpactIndexError: There is no index.
        """
        with self._lock:
            if self._opened is None:
                self._check_built()
                self._opened = OpenIndex(self.directory, Path(self.path), memory=self.memory)
            return self._opened

    def index_obj(self) -> Any:
        """Return the Java index object, opened at first use. Do not use it after :meth:`close`, nor from several threads.

        Raises:
            ImpactIndexError: There is no index, or its files do not match its manifest.
        """
        return self.open().terrier().lend()

    def get_corpus_iter(self, return_toks: bool = True) -> pt.model.IterDict:
        """Return the documents of the index.

        Args:
            return_toks: Whether to return docno and impacts; otherwise the metadata fields.
        """
        return self.open().corpus(return_toks=return_toks)

    def postings(self, *, verbose: bool = False) -> Postings:
        """Return the postings as arrays, opened at first use and built if they are missing; needs no Java.

        Args:
            verbose: Whether to show a progress bar while the arrays are built.

        Raises:
            ImpactIndexError: There is no index, it or its postings are damaged, or the postings cannot be written into its
                directory.
        """
        return self.open().postings(verbose=verbose)

    def verify(self) -> None:
        """Compare size and SHA-256 of every file with the manifest, and check the postings; reads the whole index.

        Raises:
            ImpactIndexError: A file is missing or has changed (the message names it), or there is no index or no manifest.
        """
        self._check_built()
        read_whole(self.directory, lambda: check_on_opening(self.directory, digests=True))
        if (self.directory / POSTINGS_FILE).exists():
            Postings(self.directory / POSTINGS_FILE).file.verify()

    def close(self) -> None:
        """Close the index after running searches have ended; the next use opens the index that is then at the path."""
        with self._lock:
            opened, self._opened, self._index_ref = self._opened, None, None
        if opened is not None:
            opened.release()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files, which a copy opens again."""
        return {**self.__dict__, "_opened": None, "_index_ref": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __str__(self) -> str:
        return self._named(self.directory.name)

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.directory,)

    def _changed(self) -> list[str]:
        return [repr(str(self.path)), *super()._changed()]

    def _check_built(self) -> None:
        if not self.built():
            raise ImpactIndexError(f"no index at {self.path}: build it with (csplade.doc_encoder() >> index).index(...)")

    def _hf_readme(self, *, repo: str, branch: str | None = "main", **kwargs: Any) -> str:
        """Fill in PyTerrier's card, and replace its content."""
        card: str = super()._hf_readme(repo=repo, branch=branch, **kwargs)
        head, tail = card.partition("## Description")[0], card.rpartition("## Metadata")[2]
        name = repo if branch in (None, "main") else f"{repo}@{branch}"
        return f"{head}{self._card(f'from_hf({name!r})')}## Metadata{tail}"

    def _zenodo_metadata(self, *, zenodo_id: str, **kwargs: Any) -> dict[str, Any]:
        metadata: dict[str, Any] = super()._zenodo_metadata(zenodo_id=zenodo_id, **kwargs)
        tail = metadata["description"].rpartition("<h2>Metadata</h2>")[2]
        card = html.escape(self._card(f"from_zenodo({str(zenodo_id)!r})"), quote=False)
        return {**metadata, "description": f"<pre>\n{card}</pre>\n\n<h2>Metadata</h2>{tail}"}

    def _card(self, load: str) -> str:
        values, contract = read_metadata(self.directory), read_contract(self.directory)
        encoder = "The document encoder is unknown."
        if contract is not None:
            encoder = (
                f"Document encoder: {contract.summary}; at most {contract.document_length} tokens, prefix "
                f"{contract.document_prefix!r}; the weight 1 has the impact {contract.impact_scale:g}."
            )
        return _CARD.format(
            documents=values["documents"],
            mean=values["postings"] / values["documents"],
            version=values["version"],
            encoder=encoder,
            load=load,
            model=(contract and contract.base_model) or "the model of the documents",
        )
