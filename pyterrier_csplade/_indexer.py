"""The indexer of impacts."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyterrier as pt

from . import __version__
from ._errors import DataError, ImpactIndexError
from ._java import check_reachable, start, summary
from ._manifest import write_manifest
from ._spool import OnDuplicate, Spool
from ._workspace import publish, workspace

if TYPE_CHECKING:
    from ._index import ImpactIndex


class ImpactIndexer(pt.Indexer):
    """Builds an :class:`ImpactIndex` from documents with ``toks``.

    Nothing is visible at the index's path until everything is done: documents are checked and spooled to a temporary directory
    beside it, Terrier builds there, documents and postings are counted, the manifest is written, and only then does the
    directory move to its place. Whatever goes wrong before surfaces as an exception and leaves the path as it was. The disk
    must hold the compressed documents and the index at the same time.
    """

    schematic = {"label": "ImpactIndexer", "help_url": None}

    def __init__(
        self,
        impact_index: ImpactIndex,
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
        self.impact_index = impact_index
        self.meta = tuple(meta)
        self.overwrite = overwrite
        self.on_duplicate = on_duplicate
        self.max_empty = max_empty
        self.verbose = verbose

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return [["docno", "toks", *(field for field in self.meta if field != "docno")]]

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> ImpactIndex:  # the base class's name
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
        target = self.impact_index.directory
        with workspace(target) as directory:
            self._check_target(target)
            start()  # before the documents are encoded, so that a missing Java shows at once
            check_reachable(directory)
            built = directory / "index"
            try:
                self._build(iter, directory / "documents.jsonl.lz4", built)
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

    def _build(self, documents: Iterable[Mapping[str, Any]], spool_path: Path, directory: Path) -> None:
        spool = Spool(spool_path, fields=self.meta, on_duplicate=self.on_duplicate)
        spool.fill(pt.tqdm(documents, desc="ImpactIndexer", unit="d") if self.verbose else documents)
        self._check_spool(spool)
        directory.mkdir()
        _run_terrier(spool, directory)
        (directory / "pt_meta.json").write_text(json.dumps(_metadata(spool), indent=2) + "\n", encoding="utf-8")
        write_manifest(directory)

    def _check_spool(self, spool: Spool) -> None:
        if spool.empty == spool.documents:
            raise DataError(f"nothing to index: {spool.documents:,} documents, none with an impact above 0")
        share = spool.empty / spool.documents
        message = f"{spool.empty:,} of {spool.documents:,} documents ({share:.1%}) have no impact above 0: no query finds them"
        if share > self.max_empty:
            raise DataError(f"{message}; does the encoder work? toks_indexer(max_empty=1) indexes them all the same")
        if spool.empty:
            warnings.warn(message, stacklevel=2)
        if spool.fractional:
            warnings.warn("weights were rounded to whole impacts: let the encoder's quantizer scale them first", stacklevel=2)


class _Feed:
    """Hands documents to Terrier's thread, in which an exception would be lost, and remembers what happened."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self.spool
        except Exception as error:
            self.error = error


def _run_terrier(spool: Spool, directory: Path) -> None:
    feed = _Feed(spool)
    try:
        # The term length is Terrier's default, set because another index of this process may have changed it.
        properties = {"max.term.length": "20"}
        indexer = pt.IterDictIndexer(str(directory), meta=spool.lengths, pretokenised=True, properties=properties)
        statistics = pt.terrier.IndexFactory.of(indexer.index(feed)).getCollectionStatistics()
        found = statistics.getNumberOfDocuments(), statistics.getNumberOfPointers()
    except Exception as error:
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise ImpactIndexError(f"Terrier could not build the index: {summary(error)}") from error
    if feed.error is not None:
        raise feed.error
    if found != (spool.documents, spool.postings):
        read = spool.documents, spool.postings
        raise ImpactIndexError(f"Terrier indexed (documents, postings) = {found}, not {read} that were read: report this")


def _metadata(spool: Spool) -> dict[str, Any]:
    return {
        "type": "sparse_index",
        "format": "terrier",
        "package_hint": "python-terrier",
        "csplade": {
            "version": __version__,
            "documents": spool.documents,
            "empty_documents": spool.empty,
            "postings": spool.postings,
            "contract": None if spool.contract is None else spool.contract.to_dict(),
        },
    }


def _no_space(target: Path) -> OSError:
    message = "no space left for the index and, beside it, its compressed documents; free some and run the same again"
    return OSError(errno.ENOSPC, message, str(target))
