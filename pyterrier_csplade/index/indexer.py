"""Builds an index of impacts: spools the documents, writes Terrier's files, and reads some documents back."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade._settings import CheckedAttribute, Settings
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.index.terrier.inverted import Transposition, write_direct, write_inverted
from pyterrier_csplade.index.terrier.java import check_reachable, start, summary
from pyterrier_csplade.index.terrier.lexicon import write_lexicon
from pyterrier_csplade.index.terrier.meta import write_meta
from pyterrier_csplade.index.terrier.properties import write_properties
from pyterrier_csplade.storage.manifest import write_manifest
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.checks import as_names, check_one_of, share
from pyterrier_csplade.vectors.matrices import EncodedVectors

from .documents import check_order, take_documents, take_vectors
from .metadata import write_metadata
from .spool import OnDuplicate, Spool
from .stored import StoredIndex

# Number of documents that Terrier reads back, spread over the collection; our choice (not measured).
_SAMPLE = 5


def _check_meta(meta: Any) -> tuple[str, ...]:
    names = tuple(as_names(meta, "meta") or ())
    for name in names:
        if not name.strip() or "," in name:
            raise DataError(f"Terrier cannot store a metadata field {name!r}: its name is empty or has a comma")
    return names


def _check_on_duplicate(on_duplicate: Any) -> Any:
    check_one_of("on_duplicate", on_duplicate, get_args(OnDuplicate))
    return on_duplicate


class ImpactIndexer(Settings, pt.Indexer):
    """Builds an :class:`ImpactIndex` from documents with ``toks``.

    The index appears at its path only when it is complete. Documents are checked and spooled to a temporary directory next to
    the path. Terrier's files are written there in bulk, Terrier reads some documents back, and the manifest is written. Only
    then is the directory moved to its path. An earlier error raises an exception and leaves the path unchanged. The disk needs
    space for about twice the size of the index.
    """

    #: Metadata fields to store.
    meta = CheckedAttribute(_check_meta)
    #: "refuse", "skip" or "last".
    on_duplicate = CheckedAttribute(_check_on_duplicate)
    #: Maximum share of documents without any impact.
    max_empty = CheckedAttribute(share("max_empty"))

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
        self.impact_index = impact_index
        self.meta = meta
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
        """Build the index from documents with ``docno`` and ``toks``, and return it.

        Args:
            iter: The documents.
            **kwargs: Not supported.

        Raises:
            ContractError: Two documents come from different encoders.
            DataError: A document cannot be indexed exactly, or there is nothing to index.
            ImpactIndexError: The index exists already, another process is writing it, or Terrier failed.
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
            start()  # before the documents are encoded, so that a missing Java is reported early
            check_reachable(directory)
            built = directory / "index"
            try:
                self._build(take, directory, built)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                message = (
                    "no space left for the index and its spooled documents: free some space and run the same command again"
                )
                raise OSError(errno.ENOSPC, message, str(target)) from error
            publish(built, target)
        self.impact_index.close()
        return self.impact_index

    def _check_target(self, target: Path) -> None:
        check_target(target)
        if not self.overwrite and (target / "data.properties").exists():
            raise ImpactIndexError(f"there is an index at {target}: use toks_indexer(overwrite=True) to replace it")

    def _build(self, take: Callable[[Spool], None], directory: Path, built: Path) -> None:
        spool = Spool(directory, fields=self.meta, on_duplicate=self.on_duplicate)
        take(spool)
        counts = spool.counts
        documents, empty, postings = len(counts), int((counts == 0).sum()), int(counts.sum())
        self._check_spool(spool, documents, empty)
        built.mkdir()
        with pt.tqdm(total=2 * postings, desc="writing", unit="posting", unit_scale=True, disable=not self.verbose) as bar:
            _write_terrier_index(spool, built, bar.update)
        _read_back(built, spool)
        write_metadata(built, documents=documents, empty=empty, postings=postings, contract=spool.encoder.contract)
        write_manifest(built)

    def _check_spool(self, spool: Spool, documents: int, empty: int) -> None:
        if empty == documents:
            raise DataError(f"nothing to index: {documents:,} documents, none with an impact above 0")
        share = empty / documents
        message = f"{empty:,} of {documents:,} documents ({share:.1%}) have no impact above 0, so no query can find them"
        if share > self.max_empty:
            raise DataError(f"{message}; check the encoder, or index them anyway with toks_indexer(max_empty=1)")
        if empty:
            warn(message)
        if spool.fractional:
            warn("weights were rounded to integer impacts: scale them first with the encoder's quantizer")


def check_target(target: Path) -> None:
    """Refuse a target that exists, but is neither an empty directory nor an index.

    Raises:
        ImpactIndexError: The target is another directory, or a file.
    """
    if target.exists() and not (target / "data.properties").exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ImpactIndexError(f"{target} exists and is not an index: choose another path, or remove it")


def _write_terrier_index(spool: Spool, directory: Path, advance: Callable[[int], object]) -> None:
    """Write Terrier's files into an empty directory; each posting is reported to ``advance`` twice."""
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
    """Return the terms of the documents in the order of the lexicon, and the position of each spool column in that order."""
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


def _read_back(directory: Path, spool: Spool) -> None:
    """Let Terrier read some documents and compare them with the spool, to detect versions of Terrier with another file format.

    Raises:
        ImpactIndexError: Terrier cannot read the index, or reads something else.
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
        raise ImpactIndexError(f"Terrier cannot read the new index: {summary(error)}; please report this") from error
    if found != expected:
        raise ImpactIndexError(f"Terrier reads {found} from the new index instead of {expected}: please report this")


def _document(index: Any, docid: int, docno: str) -> tuple[str, int, int, bool]:
    """Return docno, docid by docno, number of postings, and whether direct and inverted index agree on the rarest term."""
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
