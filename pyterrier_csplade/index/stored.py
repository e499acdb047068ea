"""An impact index on disk: its files, its contract and its card, and how it is checked and opened."""

from __future__ import annotations

import html
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade._settings import Settings
from pyterrier_csplade._version import __version__
from pyterrier_csplade.index.search.builder import open_postings
from pyterrier_csplade.index.search.postings import POSTINGS_FILE, Postings, index_identity
from pyterrier_csplade.index.terrier.java import start, summary
from pyterrier_csplade.storage.files import read_json
from pyterrier_csplade.storage.manifest import check_all, check_on_opening, has_manifest, read_whole
from pyterrier_csplade.vectors.contract import Contract

# Terrier opens structures at first use, perhaps after another process has replaced the index; so they are opened at once.
_STRUCTURES = ("lexicon", "inverted", "document", "meta")

_FILE = "pt_meta.json"

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


class StoredIndex(Settings, pt.terrier.TerrierIndex):
    """An impact index on disk: what can be read from it. :class:`ImpactIndex` adds building and searching."""

    def __init__(self, path: str | Path, *, memory: bool = False) -> None:
        """Name an index, which need not exist yet.

        Args:
            path: Its directory.
            memory: Whether to load it into memory for searching.
        """
        super().__init__(path, memory=memory)
        self._index_obj: Any = None
        self._contract: Contract | None = None
        self._identity_of_index_obj = ""
        self._postings: Postings | None = None

    @property
    def directory(self) -> Path:
        """The directory of the index, absolute and free of links."""
        return Path(os.path.realpath(str(self.path)))

    @property
    def contract(self) -> Contract | None:
        """The contract of the document encoder; None if it is unknown or the index is not built."""
        return read_contract(self.directory) if self._index_obj is None else self._contract

    def index_obj(self) -> Any:
        """Return the Java index object, opened at first use.

        Raises:
            ImpactIndexError: There is no index, or its files do not match its manifest.
        """
        if self._index_obj is None:
            self._index_obj, self._contract = read_whole(self.directory, self._open)
        return self._index_obj

    def postings(self, *, verbose: bool = False) -> Postings:
        """Return the postings as arrays, opened at first use and built if there are none; needs no Java.

        Args:
            verbose: Whether to show a progress bar while the arrays are built.

        Raises:
            ImpactIndexError: There is no index, it or its postings are damaged, or the postings cannot be written beside it.
        """
        if self._postings is None:
            self._check_built()
            self._postings = read_whole(self.directory, lambda: self._open_postings(verbose))
        return self._postings

    def read_field(self, field: str, docids: np.ndarray, index: str | None = None) -> np.ndarray:
        """Read a metadata field of documents. Needs Java.

        Args:
            field: Its name.
            docids: Numbers of documents; they may repeat.
            index: Identity of the index that they come from; None for the index that Terrier has opened.

        Returns:
            An object array of str.

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

    def verify(self) -> None:
        """Compare size and SHA-256 of every file with the manifest, and check the postings; reads the whole index.

        Raises:
            ImpactIndexError: A file is missing or has changed (names it), or the index or its manifest does not exist.
        """
        self._check_built()
        read_whole(self.directory, lambda: check_all(self.directory))
        if (self.directory / POSTINGS_FILE).exists():
            Postings(self.directory / POSTINGS_FILE).file.verify()

    def close(self) -> None:
        """Forget the opened index; the next use opens what is at the path then."""
        self._index_obj = self._index_ref = self._postings = None

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.directory,)

    def _changed(self) -> list[str]:
        return [repr(str(self.path)), *super()._changed()]

    def _check_built(self) -> None:
        if not self.built():
            raise ImpactIndexError(f"no index at {self.path}: build it with (csplade.doc_encoder() >> index).index(...)")

    def _open_postings(self, verbose: bool) -> Postings:
        self._check_files(digests=False)  # postings have digests of their own
        return open_postings(self.directory, read_contract(self.directory), memory=self.memory, verbose=verbose)

    def _check_files(self, *, digests: bool | None = None) -> None:
        if has_manifest(self.directory) or read_metadata(self.directory):
            check_on_opening(self.directory, digests=digests)

    def _open(self) -> tuple[Any, Contract | None]:
        self._check_built()
        self._check_files()
        start()
        try:
            index = pt.terrier.IndexFactory.of(pt.terrier.J.IndexRef.of(str(self.directory)), memory=self.memory)
            for structure in _STRUCTURES:
                index.getIndexStructure(structure)
        except Exception as error:
            raise ImpactIndexError(f"Terrier cannot open {self.path}: {summary(error)}") from error
        self._identity_of_index_obj = index_identity(self.directory)
        return index, read_contract(self.directory)

    def _hf_readme(self, *, repo: str, branch: str | None = "main", **kwargs: Any) -> str:
        """Fill PyTerrier's card; only the parts around its content are kept."""
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


def write_metadata(directory: Path, *, documents: int, empty: int, postings: int, contract: Contract | None) -> None:
    """Write ``pt_meta.json``, by which PyTerrier recognises an index.

    Args:
        directory: The directory of the index.
        documents: Number of documents.
        empty: Number of documents without any impact.
        postings: Number of postings.
        contract: The contract of the document encoder; None if unknown.
    """
    metadata = {
        "type": "sparse_index",
        "format": "terrier",
        "package_hint": "python-terrier",
        "csplade": {
            "version": __version__,
            "documents": documents,
            "empty_documents": empty,
            "postings": postings,
            "contract": None if contract is None else contract.to_dict(),
        },
    }
    (directory / _FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def read_metadata(directory: Path) -> dict[str, Any]:
    """Return what this package adds to ``pt_meta.json``; empty if another package built the index.

    Raises:
        ImpactIndexError: The file is damaged.
    """
    path = directory / _FILE
    if not path.exists():
        return {}
    try:
        return dict(read_json(path).get("csplade", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ImpactIndexError(f"{path} is damaged ({error}): build the index again") from error


def read_contract(directory: Path) -> Contract | None:
    """Return the contract of the document encoder; None if it is unknown or there is no index.

    Raises:
        ContractError: The contract is not valid.
        ImpactIndexError: The file is damaged.
    """
    values = read_metadata(directory).get("contract")
    return None if values is None else Contract.from_dict(values, source=str(directory / _FILE))
