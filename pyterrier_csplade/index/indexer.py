"""The indexer of impacts."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade._settings import Settings
from pyterrier_csplade.index.terrier.java import check_reachable, start, summary
from pyterrier_csplade.storage.manifest import write_manifest
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.checks import as_names
from pyterrier_csplade.vectors.matrices import EncodedVectors

from .documents import check_order, take_documents, take_vectors
from .spool import OnDuplicate, Spool
from .stored import StoredIndex, write_metadata
from .terrier import Transposition, write_direct, write_inverted, write_lexicon, write_meta, write_properties


class ImpactIndexer(Settings, pt.Indexer):
    """Builds an :class:`ImpactIndex` from documents with ``toks``.

    Nothing is visible at the index's path until everything is done: documents are checked and spooled to a temporary directory
    beside it, Terrier's files are written there in bulk, Terrier reads some documents back, the manifest is written, and only
    then does the directory move to its place. Whatever goes wrong before surfaces as an exception and leaves the path as it
    was. The disk must hold about twice the index at the same time.
    """

    schematic = {"label": "ImpactIndexer", "help_url": None}

    def __init__(
        self,
        impact_index: StoredIndex,
        *,
        meta: Iterable[str] = ("docno",),
        overwrite: bool = False,
        on_duplicate: OnDuplicate = "refuse",
        max_empty: float = 0.5,
        verbose: bool = False,
    ) -> None:
        """Create an indexer; :meth:`ImpactIndex.toks_indexer` explains the arguments."""
        super().__init__()
        if on_duplicate not in get_args(OnDuplicate):
            raise ValueError(f"on_duplicate must be one of {', '.join(get_args(OnDuplicate))}, found {on_duplicate!r}")
        if not 0 <= max_empty <= 1:
            raise ValueError(f"max_empty must be a share from 0 to 1, found {max_empty}")
        self.impact_index = impact_index
        self.meta = tuple(as_names(meta) or ())
        for name in self.meta:
            if not name.strip() or "," in name:
                raise ValueError(f"Terrier cannot store a metadata field {name!r}: its name is empty or has a comma")
        self.overwrite = overwrite
        self.on_duplicate = on_duplicate
        self.max_empty = max_empty
        self.verbose = verbose

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return [["docno", "toks", *(field for field in self.meta if field != "docno")]]

    def _maker(self) -> str:
        return f"{self.impact_index!r}.toks_indexer"

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.impact_index,)

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> StoredIndex:  # the base class's name
        """Build the index.

        Args:
            iter: Documents with ``docno`` and ``toks``.
            **kwargs: None are known.

        Returns:
            The index.

        Raises:
            ContractError: Two documents come from different encoders.
            DataError: A document cannot be indexed exactly, or there is nothing to index.
            ImpactIndexError: There is an index already, another process is writing one, or Terrier failed.
            OSError: The disk is full.
        """
        if kwargs:
            raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
        documents = pt.tqdm(iter, desc="ImpactIndexer", unit="d") if self.verbose else iter
        return self._publish(lambda spool: take_documents(documents, spool))

    def index_vectors(self, encoded: EncodedVectors, fields: Mapping[str, Iterable[str]]) -> StoredIndex:
        """Build the index from matrices; :meth:`ImpactIndex.index_vectors` explains the arguments, results and errors."""
        return self._publish(lambda spool: take_vectors(encoded, fields, spool, verbose=self.verbose))

    def _publish(self, take: Callable[[Spool], None]) -> StoredIndex:
        target = self.impact_index.directory
        with workspace(target) as directory:
            self._check_target(target)
            start()  # before the documents are encoded, so that a missing Java shows at once
            check_reachable(directory)
            built = directory / "index"
            try:
                self._build(take, directory, built)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise _no_space(target) from error
            publish(built, target)
        self.impact_index.close()
        return self.impact_index

    def _check_target(self, target: Path) -> None:
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return
        if not (target / "data.properties").exists():
            raise ImpactIndexError(f"{target} exists and is not an index: choose another path, or remove it")
        if not self.overwrite:
            raise ImpactIndexError(f"there is an index at {target}: toks_indexer(overwrite=True) replaces it")

    def _build(self, take: Callable[[Spool], None], directory: Path, built: Path) -> None:
        spool = Spool(directory, fields=self.meta, on_duplicate=self.on_duplicate)
        take(spool)
        counts = spool.counts
        documents, empty, postings = len(counts), int((counts == 0).sum()), int(counts.sum())
        self._check_spool(spool, documents, empty)
        built.mkdir()
        with pt.tqdm(total=2 * postings, desc="writing", unit="posting", unit_scale=True, disable=not self.verbose) as bar:
            write_terrier_index(spool, built, bar.update)
        read_back(built, spool)
        write_metadata(built, documents=documents, empty=empty, postings=postings, contract=spool.encoder.contract)
        write_manifest(built)

    def _check_spool(self, spool: Spool, documents: int, empty: int) -> None:
        if empty == documents:
            raise DataError(f"nothing to index: {documents:,} documents, none with an impact above 0")
        share = empty / documents
        message = f"{empty:,} of {documents:,} documents ({share:.1%}) have no impact above 0: no query finds them"
        if share > self.max_empty:
            raise DataError(f"{message}; does the encoder work? toks_indexer(max_empty=1) indexes them all the same")
        if empty:
            warnings.warn(message, stacklevel=2)
        if spool.fractional:
            warnings.warn("weights were rounded to whole impacts: let the encoder's quantizer scale them first", stacklevel=2)


def _no_space(target: Path) -> OSError:
    message = "no space left for the index and, beside it, its documents; free some and run the same again"
    return OSError(errno.ENOSPC, message, str(target))


def write_terrier_index(spool: Spool, directory: Path, advance: Callable[[int], object]) -> None:
    """Write all files of an index but the manifest.

    Args:
        spool: The documents.
        directory: An empty directory.
        advance: Called with the number of postings that are done; each posting comes twice.

    Raises:
        DataError: Two terms cannot stand in one index.
        OSError: A file cannot be written.
    """
    terms, numbers = _number_terms(spool)
    transposition = Transposition(directory.parent / "transposed", len(terms))
    write_direct(_renumbered(spool, numbers, len(terms)), directory, transposition, advance)
    spool.remove()
    statistics = write_inverted(transposition, directory, advance)
    write_lexicon(terms, statistics, directory)
    docnos = spool.docnos
    meta = write_meta(spool.records(), docnos, spool.lengths, directory)
    write_properties(
        directory,
        documents=len(docnos),
        terms=len(terms),
        postings=int(statistics.documents.sum()),
        tokens=int(statistics.tokens.sum()),
        meta=meta,
    )


def _number_terms(spool: Spool) -> tuple[list[str], np.ndarray]:
    """Return the terms that documents have, in the order of the lexicon, and the place there of each column of the spool."""
    used = np.zeros(len(spool.terms), dtype=bool)
    for shard in spool.shards():
        used[shard.indices] = True
    # Python compares strings by code points, which is the order of UTF-8.
    terms = sorted(term for term, number in spool.terms.items() if used[number])
    check_order(terms)
    numbers = np.full(len(used), -1, dtype=np.int32)
    numbers[[spool.terms[term] for term in terms]] = np.arange(len(terms))
    return terms, numbers


def _renumbered(spool: Spool, numbers: np.ndarray, terms: int) -> Iterator[csr_matrix]:
    for shard in spool.shards():
        yield csr_matrix((shard.data, numbers[shard.indices], shard.indptr), shape=(shard.shape[0], terms))


# Documents that are looked at, spread over the collection (ours).
_SAMPLE = 5


def read_back(directory: Path, spool: Spool) -> None:
    """Compare some documents as Terrier reads them with what went in: what another version of Terrier reads otherwise shows.

    Args:
        directory: Of the index.
        spool: What was indexed.

    Raises:
        ImpactIndexError: Terrier cannot read the index, or finds something else.
    """
    docnos, counts = spool.docnos, spool.counts
    try:
        index = pt.terrier.IndexFactory.of(str(directory))
        statistics = index.getCollectionStatistics()
        found: Any = statistics.getNumberOfDocuments(), statistics.getNumberOfPointers()
        expected: Any = len(docnos), int(counts.sum())
        for docid in range(0, len(docnos), max(1, len(docnos) // _SAMPLE)):
            found += _document(index, docid, docnos[docid])
            expected += docnos[docid], docid, int(counts[docid]), True
        index.close()
    except Exception as error:
        raise ImpactIndexError(f"Terrier cannot read the index that was built: {summary(error)}; report this") from error
    if found != expected:
        raise ImpactIndexError(f"Terrier reads {found} from the index that was built, not {expected}: report this")


def _document(index: Any, docid: int, docno: str) -> tuple[str, int, int, bool]:
    """Return docno, docid by docno, postings, and whether the postings of its rarest term agree with its own."""
    entry = index.getDocumentIndex().getDocumentEntry(docid)
    postings = _postings(index.getDirectIndex(), entry) if entry.getNumberOfEntries() else {}
    entries = [index.getLexicon().getLexiconEntry(termid).getValue() for termid in postings]
    rarest = min(entries, key=lambda entry: entry.getDocumentFrequency(), default=None)
    agrees = sum(postings.values()) == entry.getDocumentLength()
    if rarest is not None:
        iterator = index.getInvertedIndex().getPostings(rarest)
        agrees &= iterator.next(docid) == docid and iterator.getFrequency() == postings[rarest.getTermId()]
    meta = index.getMetaIndex()
    return meta.getItem("docno", docid), meta.getDocument("docno", docno), len(postings), agrees


def _postings(structure: Any, pointer: Any) -> dict[int, int]:
    iterator = structure.getPostings(pointer)
    return {iterator.getId(): iterator.getFrequency() for _ in iter(iterator.next, iterator.EOL)}
