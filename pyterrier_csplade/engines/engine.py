"""Base classes of the adapters: building, opening and searching an index of another engine."""

from __future__ import annotations

import importlib
import json
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import CspladeError, DataError, ImpactIndexError
from pyterrier_csplade._settings import Settings
from pyterrier_csplade._version import __version__
from pyterrier_csplade.index.documents import take_documents, take_vectors
from pyterrier_csplade.index.retrieval import IndexRetriever
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.index.search.postings import index_identity
from pyterrier_csplade.index.spool import Spool
from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter, PackedStrings, StringTable
from pyterrier_csplade.storage.files import read_json
from pyterrier_csplade.storage.manifest import check_on_opening, read_whole, write_manifest
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.matrices import EncodedVectors

# The file of docnos, terms and contract, next to the files of the engine.
_NAMES_FILE = "csplade_engine.bin"
# The file that makes a directory an artifact of PyTerrier.
_META_FILE = "pt_meta.json"

# Held while an index is opened, so that concurrent threads open it only once.
_OPENING = threading.RLock()


class Documents:
    """Checked documents for an engine, with numbers instead of docnos and terms, which engines might fold, split or cut.

    A document's number is its position in the order of indexing, a term's number its position in the order of appearance.

    Attributes:
        terms: Term to number.
        postings: Total number of impacts.
        docnos: The docno of each document.
    """

    def __init__(self, spool: Spool) -> None:
        """Number docnos and terms; reads the spool once."""
        self._spool = spool
        self.docnos = spool.docnos
        self.postings = int(spool.counts.sum())
        used = np.zeros(len(spool.terms), dtype=bool)
        for shard in spool.shards():
            used[shard.indices] = True
        self._numbers = np.cumsum(used) - 1
        self.terms = {term: int(self._numbers[number]) for term, number in spool.terms.items() if used[number]}

    def __len__(self) -> int:
        return len(self.docnos)

    def __iter__(self) -> Iterator[dict[int, int]]:
        """Yield the documents in order, as number of a term to impact, by ascending number."""
        for shard in self._spool.shards():
            shard.sort_indices()  # the numbers have the order of the columns
            numbers, impacts = self._numbers[shard.indices].tolist(), shard.data.tolist()
            for start, end in pairwise(shard.indptr.tolist()):
                yield dict(zip(numbers[start:end], impacts[start:end]))


class Engine(Settings, pt.Artifact, pt.Indexer):
    """An index of impacts in another engine: built next to its path, moved there when complete, and checked when it is opened.

    Documents are checked, and their impacts rounded, as by :meth:`pyterrier_csplade.ImpactIndex.toks_indexer`. An index is a
    PyTerrier artifact: ``pt.Artifact.load(path)`` returns this object. Threads may share it and its retrievers.

    Attributes:
        path: The directory of the index.
    """

    #: Names of the engine, of the module that it needs, and of the extra of this package that installs the module.
    name: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]
    ARTIFACT_TYPE = "sparse_index"
    ARTIFACT_PACKAGE_HINT = "pyterrier-csplade"
    ARTIFACT_FORMAT: ClassVar[str]

    def __init__(self, path: str | Path) -> None:
        """Name an index, which need not exist yet."""
        super().__init__(path)
        self._opened: Opened | None = None

    @property
    def directory(self) -> Path:
        """The directory of the index, absolute and without links."""
        return Path(os.path.realpath(self.path))

    @property
    def contract(self) -> Contract | None:
        """The contract of the document encoder; None if unknown."""
        return self.open().contract

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> Engine:  # the base class's name
        """Build the index from documents with ``docno`` and ``toks``, and return it.

        Args:
            iter: The documents.
            **kwargs: Not supported.

        Raises:
            ContractError: Two documents come from different encoders.
            CspladeError: The engine is not installed.
            DataError: A document cannot be indexed, or there are no documents.
            ImpactIndexError: The path exists already, or the engine failed.
        """
        if kwargs:
            raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
        return self._publish(lambda spool: take_documents(iter, spool))

    def index_vectors(self, vectors: EncodedVectors) -> Engine:
        """Build the index from encoded documents in matrices; see :meth:`index` for the errors.

        Args:
            vectors: From a bulk encoder, :meth:`pyterrier_csplade.PruneToks.vectors`, or any other source.
        """
        return self._publish(lambda spool: take_vectors(vectors, {}, spool))

    def _publish(self, take: Callable[[Spool], None]) -> Engine:
        self.package()
        with workspace(self.directory) as directory:
            if self.directory.exists() and not (self.directory.is_dir() and not any(self.directory.iterdir())):
                raise ImpactIndexError(f"{self.path} exists: choose another path, or remove it")
            spool = Spool(directory)
            take(spool)
            documents, built = Documents(spool), directory / "index"
            if documents.postings == 0:
                raise DataError(f"nothing to index: {len(documents):,} documents, none with an impact above 0")
            built.mkdir()
            self._build(documents, built)
            _write_names(built / _NAMES_FILE, self.name, documents, spool.encoder.contract)
            self._write_metadata(built / _META_FILE)
            write_manifest(built)
            publish(built, self.directory)
        self.close()
        return self

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return [["docno", "toks"]]

    def open(self) -> Opened:
        """Open the index, if it is not open.

        Raises:
            CspladeError: The engine is not installed.
            ImpactIndexError: There is no index, or it is damaged or belongs to another engine.
        """
        if (opened := self._opened) is not None:
            return opened
        with _OPENING:
            if (opened := self._opened) is None:
                self.package()
                self._opened = opened = read_whole(self.directory, lambda: Opened(self, self.directory))
            return opened

    def verify(self) -> None:
        """Compare size and SHA-256 of every file with the manifest; reads the whole index.

        Raises:
            ImpactIndexError: A file is missing or has changed (the message names it), or there is no index.
        """
        self.check_built()
        check_on_opening(self.directory, digests=True)

    def close(self) -> None:
        """Close the opened index, so that the next use opens the path again."""
        self._opened = None

    def package(self) -> Any:
        """Import and return the module of the engine's package.

        Raises:
            CspladeError: It is not installed.
        """
        return require(self.module, self.extra, type(self).__name__)

    def open_in(self, directory: Path) -> Any:
        """Return the engine's own object for the index in a directory."""
        raise NotImplementedError

    def _build(self, documents: Documents, directory: Path) -> None:
        """Write the engine's own index into an empty directory."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.open().docnos)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __str__(self) -> str:
        return self._named(self.directory.name, *super()._changed())

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.directory,)

    def _changed(self) -> list[str]:
        return [repr(str(self.path)), *super()._changed()]

    def check_built(self) -> None:
        """Raise ImpactIndexError if there is no index at the path."""
        if not (self.directory / _NAMES_FILE).exists():
            raise ImpactIndexError(f"no index at {self.path}: build it with (csplade.doc_encoder() >> engine).index(...)")

    def _write_metadata(self, path: Path) -> None:
        # PISA writes and reads such a file, too, but a PisaIndex would find nothing, because terms and docnos are numbers.
        values = read_json(path) if path.exists() else {}
        names = {"type": self.ARTIFACT_TYPE, "format": self.ARTIFACT_FORMAT, "package_hint": self.ARTIFACT_PACKAGE_HINT}
        path.write_text(json.dumps(values | names, indent=2) + "\n", encoding="utf-8")


class Opened:
    """One version of an index that is open: the engine's own object, and the names of its documents and terms."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        """Check and open an index.

        Raises:
            ImpactIndexError: There is no index, it is damaged, or it belongs to another engine.
        """
        engine.check_built()
        check_on_opening(directory)
        self._directory, self._identity = directory, index_identity(directory)
        self._searchers: dict[Hashable, Any] = {}
        names = ArrayFile(directory / _NAMES_FILE)
        names.require({"engine", "contract"} <= names.metadata.keys(), "footer")
        found = names.metadata["engine"]
        if found != engine.name:
            raise ImpactIndexError(f"{engine.path} is an index of {found}, not of {engine.name}")
        contract = names.metadata["contract"]
        self.contract = None if contract is None else Contract.from_dict(contract, source=str(names.path))
        self.docnos = StringTable(names, "docnos")
        self.numbers = {term: number for number, term in enumerate(StringTable(names, "terms"))}
        self.engine = engine.open_in(directory)

    def searcher(self, settings: Hashable, make: Callable[[], Any]) -> Any:
        """Return an object that an engine opens by path to search with some settings, created at first use.

        Raises:
            ImpactIndexError: The index was replaced after it was opened.
        """
        if (found := self._searchers.get(settings)) is not None:
            return found
        with _OPENING:
            if settings not in self._searchers:
                try:
                    made = make()
                finally:
                    self._check_same()
                self._searchers[settings] = made
            return self._searchers[settings]

    def _check_same(self) -> None:
        if index_identity(self._directory) != self._identity:
            raise ImpactIndexError(
                f"{self._directory} was removed or built again while it was open: call close() of the engine and search again"
            )


class EngineRetriever(IndexRetriever):
    """Retrieves from another engine, with the columns of :class:`pyterrier_csplade.ImpactIndex`'s retrievers.

    ``docid`` is the position of a document in the order of indexing. Documents with equal scores are in this order; the engine
    decides which of them are cut off at the end of a ranking. A query without a term of the index has no rows. All results of a
    call come from the index that was open at its start.
    """

    def __init__(self, engine: Engine, *, num_results: int = 1000, threads: int = 1, verbose: bool = False) -> None:
        """Create a retriever; the engine's ``retriever`` explains the arguments."""
        super().__init__(engine, num_results=num_results, threads=threads, verbose=verbose)  # type: ignore[arg-type]
        self.engine = engine

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return an empty dict: the engine is the source of the results, not a step of a pipeline."""
        return {}

    def _open(self) -> Opened:
        return self.engine.open()

    def _search(self, opened: Opened, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        numbers = opened.numbers
        known = {qid: {numbers[t]: w for t, w in query.items() if t in numbers} for qid, query in queries.items()}
        found = self._run(opened, {qid: query for qid, query in known.items() if query})
        return {qid: _in_order(hits, self.num_results) for qid, hits in found.items()}

    def _run(self, index: Opened, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        """Search with the engine's own object.

        Args:
            index: The index; its ``engine`` is what :meth:`Engine.open_in` returned.
            queries: qid to a non-empty dict of term number to weight; there may be no queries.

        Returns:
            The documents by their numbers, in any order; scores may be 0.
        """
        raise NotImplementedError

    def _read(self, opened: Opened, field: str, docids: np.ndarray) -> Any:
        return opened.docnos.take(docids)


def require(module: str, extra: str, what: str) -> Any:
    """Import a module of an optional package.

    Raises:
        CspladeError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CspladeError(f'{what} needs another package ({error}): pip install "pyterrier-csplade[{extra}]"') from error


def to_arrays(vector: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return term numbers, int64, and their weights, float32."""
    return np.fromiter(vector.keys(), np.int64, len(vector)), np.fromiter(vector.values(), np.float32, len(vector))


def _write_names(path: Path, engine: str, documents: Documents, contract: Contract | None) -> None:
    writer = ArrayWriter(path)
    PackedStrings(documents.docnos).write(writer, "docnos")
    PackedStrings(documents.terms).write(writer, "terms")
    writer.finish(
        {
            "engine": engine,
            "version": __version__,
            "postings": documents.postings,
            "contract": None if contract is None else contract.to_dict(),
        }
    )


def _in_order(hits: Hits, k: int) -> Hits:
    positive = hits.scores > 0
    docids, scores = hits.docids[positive], hits.scores[positive]
    order = np.lexsort((docids, -scores))[:k]
    return Hits(docids[order], scores[order])
