"""What the adapters have in common: building, opening and searching an index of another engine."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import CspladeError, DataError, ImpactIndexError
from pyterrier_csplade._version import __version__
from pyterrier_csplade.index.documents import take_documents, take_vectors
from pyterrier_csplade.index.retrieval import IndexRetriever
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.index.spool import Spool
from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter, PackedStrings, StringTable
from pyterrier_csplade.storage.manifest import check_on_opening, write_manifest
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.matrices import EncodedVectors

# Docnos and terms of an index, and its contract, beside the files of the engine.
_NAMES_FILE = "csplade_engine.bin"


class Documents:
    """Checked documents on their way to an engine, which sees numbers in the place of docnos and terms.

    A document's number is its place in the order of indexing, a term's number its place in the order of appearance. Engines
    that fold, split or cut strings cannot harm them.

    Attributes:
        terms: Term to number.
        largest: The largest impact.
        postings: Impacts in all.
        docnos: One for each document.
    """

    def __init__(self, spool: Spool) -> None:
        """Number docnos and terms; reads the spool once."""
        self._spool = spool
        self.docnos = spool.docnos
        self.postings = int(spool.counts.sum())
        self.largest = 0
        used = np.zeros(len(spool.terms), dtype=bool)
        for shard in spool.shards():
            used[shard.indices] = True
            self.largest = max(self.largest, int(shard.data.max(initial=0)))
        self._numbers = np.cumsum(used) - 1
        self.terms = {term: int(self._numbers[number]) for term, number in spool.terms.items() if used[number]}

    def __len__(self) -> int:
        return len(self.docnos)

    def __iter__(self) -> Iterator[dict[int, int]]:
        """Yield the documents in their order: number of a term to impact, by ascending number."""
        for shard in self._spool.shards():
            shard.sort_indices()  # the numbers have the order of the columns
            numbers, impacts = self._numbers[shard.indices].tolist(), shard.data.tolist()
            for start, end in pairwise(shard.indptr.tolist()):
                yield dict(zip(numbers[start:end], impacts[start:end]))

    def name(self, condition: Any) -> str:
        """Return the docno of the first document of which an impact meets a condition, for messages."""
        return next(docno for docno, toks in zip(self.docnos, self) if any(map(condition, toks.values())))


class Engine(pt.Indexer):
    """An index of impacts in another engine: built beside its target, moved there when whole, checked when it is opened.

    Documents are checked as :meth:`pyterrier_csplade.ImpactIndex.toks_indexer` does, and their impacts rounded the same way.

    Attributes:
        path: The directory of the index.
    """

    #: Name of the engine, of the module that it needs, and of this package's extra that installs it.
    name: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]
    #: For retrievers, which compare indexes by it.
    memory = False

    def __init__(self, path: str | Path) -> None:
        """Name an index, which need not exist yet."""
        super().__init__()
        self.path = Path(path)
        self._opened: Opened | None = None

    @property
    def directory(self) -> Path:
        """The directory of the index, absolute and free of links."""
        return Path(os.path.realpath(self.path))

    @property
    def contract(self) -> Contract | None:
        """The contract of the encoder of the documents; None if unknown."""
        return self.open().contract

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> Engine:  # the base class's name
        """Build the index from documents with ``docno`` and ``toks``.

        Args:
            iter: The documents.
            **kwargs: None are known.

        Returns:
            This index.

        Raises:
            ContractError: Two documents come from different encoders.
            CspladeError: The engine is not installed.
            DataError: A document cannot be indexed, is beyond a limit of the engine, or there is none.
            ImpactIndexError: There is something at the path already, or the engine failed.
        """
        if kwargs:
            raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
        return self._publish(lambda spool: take_documents(iter, spool))

    def index_vectors(self, vectors: EncodedVectors) -> Engine:
        """Build the index from encoded documents in matrices; otherwise as :meth:`index`.

        Args:
            vectors: From a bulk encoder, :meth:`pyterrier_csplade.PruneToks.vectors`, or any other source.
        """
        return self._publish(lambda spool: take_vectors(vectors, {}, spool))

    def _publish(self, take: Callable[[Spool], None]) -> Engine:
        self._check_engine()
        with workspace(self.directory) as directory:
            if self.directory.exists() and not (self.directory.is_dir() and not any(self.directory.iterdir())):
                raise ImpactIndexError(f"{self.path} exists: choose another path, or remove it")
            spool = Spool(directory)
            take(spool)
            documents, built = Documents(spool), directory / "index"
            if documents.postings == 0:
                raise DataError(f"nothing to index: {len(documents):,} documents, none with an impact above 0")
            self._check_limits(documents)
            built.mkdir()
            self._build(documents, built)
            _write_names(built / _NAMES_FILE, self.name, documents, spool.encoder.contract)
            write_manifest(built)
            publish(built, self.directory)
        self.close()
        return self

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return [["docno", "toks"]]

    def open(self) -> Opened:
        """Open the index, if it is not.

        Raises:
            CspladeError: The engine is not installed.
            ImpactIndexError: There is no index, it is damaged or of another engine.
        """
        if self._opened is None:
            self._check_engine()
            if not (self.directory / _NAMES_FILE).exists():
                raise ImpactIndexError(f"no index at {self.path}: build it with (csplade.doc_encoder() >> engine).index(...)")
            check_on_opening(self.directory)
            self._opened = Opened(self, self.directory)
        return self._opened

    def close(self) -> None:
        """Forget the opened index, so that the next use opens what is at the path then."""
        self._opened = None

    def load(self, directory: Path) -> Any:
        """Return the engine's own object for the index in a directory."""
        raise NotImplementedError

    def _build(self, documents: Documents, directory: Path) -> None:
        """Write the engine's own index into an empty directory."""
        raise NotImplementedError

    def _check_limits(self, documents: Documents) -> None:
        """Refuse what the engine would change silently."""

    def _check_engine(self) -> None:
        require(self.module, self.extra, type(self).__name__)

    def __len__(self) -> int:
        return len(self.open().docnos)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"


class Opened:
    """An index that is open: the engine's own object, and the names of its documents and terms."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        """Open the index of an engine."""
        names = ArrayFile(directory / _NAMES_FILE)
        found = names.metadata["engine"]
        if found != engine.name:
            raise ImpactIndexError(f"{engine.path} is an index of {found}, not of {engine.name}")
        contract = names.metadata["contract"]
        self.contract = None if contract is None else Contract.from_dict(contract, source=str(names.path))
        self.docnos = StringTable(names, "docnos")
        self.numbers = {term: number for number, term in enumerate(StringTable(names, "terms"))}
        self.engine = engine.load(directory)


def require(module: str, extra: str, what: str) -> Any:
    """Import a module of an optional package.

    Raises:
        CspladeError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CspladeError(f'{what} needs another package ({error}): pip install "pyterrier-csplade[{extra}]"') from error


def to_arrays(vector: Mapping[int, float], dtype: np.typing.DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of terms, int64, and their weights."""
    numbers = np.fromiter(vector.keys(), np.int64, len(vector))
    return numbers, np.fromiter(vector.values(), np.float64, len(vector)).astype(dtype)


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


class EngineRetriever(IndexRetriever):
    """Retrieves from another engine; takes and gives the columns of :class:`pyterrier_csplade.ImpactIndex`'s retrievers.

    ``docid`` is the place of a document in the order of indexing. Documents of equal score come in that order; which of them
    are left out where a ranking ends is for the engine to say. A query without a term of the index has no rows.
    """

    def __init__(self, engine: Engine, *, num_results: int = 1000, threads: int = 1, verbose: bool = False) -> None:
        """Create a retriever; the engine's ``retriever`` explains the arguments."""
        super().__init__(engine, num_results=num_results, threads=threads, verbose=verbose)  # type: ignore[arg-type]
        self.engine = engine
        self._index: Opened | None = None

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return nothing: the engine is an indexer, which no query goes through."""
        return {}

    def _open(self) -> Contract | None:
        self._index = self.engine.open()
        return self._index.contract

    def _search(self, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        assert self._index is not None
        numbers = self._index.numbers
        known = {qid: {numbers[t]: w for t, w in query.items() if t in numbers} for qid, query in queries.items()}
        found = self._run(self._index.engine, {qid: query for qid, query in known.items() if query})
        return {qid: _in_order(hits, self.num_results) for qid, hits in found.items()}

    def _run(self, engine: Any, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        """Search with the engine's own object.

        Args:
            engine: What :meth:`Engine.load` returned.
            queries: qid to number of a term to weight; perhaps none, and none of them empty.

        Returns:
            The documents by their numbers, in any order, scores perhaps 0.
        """
        raise NotImplementedError

    def _read(self, field: str, docids: np.ndarray) -> Any:
        assert self._index is not None
        return self._index.docnos.take(docids)


def _in_order(hits: Hits, k: int) -> Hits:
    found = hits.scores > 0
    docids, scores = hits.docids[found], hits.scores[found]
    order = np.lexsort((docids, -scores))[:k]
    return Hits(docids[order], scores[order])
