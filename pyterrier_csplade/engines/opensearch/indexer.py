"""The indexer of impacts in OpenSearch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade.vectors.checks import check_encoded, check_positive
from pyterrier_csplade.vectors.matrices import EncodedVectors

from .bulk import BulkLoader
from .mapping import Fields, Metadata
from .records import Docnos, Record, Records
from .remote import ServedIndex


class OpenSearchIndexer(pt.Indexer):
    """Loads documents with ``toks`` into an :class:`OpenSearchIndex`; :meth:`OpenSearchIndex.toks_indexer` makes it.

    Documents are put under their docno while they come, so that the same call, made again after whatever went wrong, ends in
    the same index. The index is marked complete, and can be searched, when every document was acknowledged and the server
    counts as many as were sent.
    """

    schematic = {"label": "OpenSearchIndexer", "help_url": None}

    def __init__(
        self,
        index: ServedIndex,
        *,
        fields: Fields,
        scale: float = 1.0,
        shards: int = 1,
        replicas: int = 1,
        overwrite: bool = False,
        max_empty: float = 0.5,
        parallel: int = 2,
        request_bytes: int = 5_000_000,
        verbose: bool = False,
    ) -> None:
        """Create an indexer; :meth:`OpenSearchIndex.toks_indexer` explains the arguments."""
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be positive and finite, found {scale}")
        if not 0 <= max_empty <= 1:
            raise ValueError(f"max_empty must be a share from 0 to 1, found {max_empty}")
        check_positive(shards=shards, parallel=parallel, request_bytes=request_bytes)
        if replicas < 0:
            raise ValueError(f"replicas must be at least 0, found {replicas}")
        self._index = index
        self.fields = fields
        self.scale = scale
        self.shards = shards
        self.replicas = replicas
        self.overwrite = overwrite
        self.max_empty = max_empty
        self.parallel = parallel
        self.request_bytes = request_bytes
        self.verbose = verbose

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return [["docno", "toks", *self.fields.names]]

    def __repr__(self) -> str:
        values: dict[str, tuple[Any, Any]] = {
            "meta": (dict(self.fields.types), {}),
            "text": (self.fields.text, None),
            "analyzer": (self.fields.analyzer, "english"),
            "scale": (self.scale, 1.0),
            "shards": (self.shards, 1),
            "replicas": (self.replicas, 1),
            "overwrite": (self.overwrite, False),
            "max_empty": (self.max_empty, 0.5),
            "parallel": (self.parallel, 2),
            "request_bytes": (self.request_bytes, 5_000_000),
        }
        arguments = ", ".join(f"{name}={value!r}" for name, (value, default) in values.items() if value != default)
        return f"{self._index!r}.toks_indexer({arguments})"

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return none: the index is what is loaded, not a step of a pipeline."""
        return {}

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> ServedIndex:  # the base class's name
        """Load documents.

        Args:
            iter: Documents with ``docno``, ``toks`` and the fields.
            **kwargs: None are known.

        Returns:
            The index.

        Raises:
            ContractError: Documents come from different encoders, or from another than those that are in the index.
            DataError: A document cannot be indexed exactly, a docno comes again, or there is nothing to index.
            ImpactIndexError: There is a complete index already, or the cluster failed.
        """
        if kwargs:
            raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
        records = Records(self._index.names, self.fields, self.scale)
        documents = pt.tqdm(iter, desc="OpenSearchIndexer", unit="d") if self.verbose else iter
        return self._load(records, (records.of_document(document, at) for at, document in enumerate(documents, start=1)))

    def index_vectors(self, vectors: EncodedVectors, documents: Iterable[Mapping[str, Any]] | None = None) -> ServedIndex:
        """Load documents that were encoded before.

        Args:
            vectors: Their docnos and vectors.
            documents: The documents in the same order, with ``docno`` and the fields, where there are fields to store.

        Returns:
            The index.

        Raises:
            ContractError, DataError, ImpactIndexError: As :meth:`index`; and the documents are others than the vectors.
        """
        check_encoded(vectors)
        if self.fields.names and documents is None:
            raise ValueError(f"the fields {', '.join(self.fields.names)} need documents=")
        records = Records(self._index.names, self.fields, self.scale)
        found = records.of_vectors(vectors, None if documents is None else iter(documents))
        return self._load(records, pt.tqdm(found, "OpenSearchIndexer", len(vectors), unit="d") if self.verbose else found)

    def _load(self, records: Records, stream: Iterable[Record]) -> ServedIndex:
        remote = self._index.remote
        found = remote.find()  # before the first document is encoded
        if found is not None and found.complete and not self.overwrite:
            raise ImpactIndexError(f"there is an index {remote}: toks_indexer(overwrite=True) replaces it")
        seen = Docnos()
        incoming = _without_duplicates(iter(stream), seen)
        first = next(incoming, None)
        if first is None:
            raise DataError("nothing to index: there is no document")
        metadata = Metadata(self._index.names.scheme, self.scale, self.fields.names, self.fields.text, records.encoder.contract)
        remote.begin(metadata, self.fields, shards=self.shards, overwrite=self.overwrite)
        loader = BulkLoader(remote.connection, remote.name, parallel=self.parallel, request_bytes=self.request_bytes)
        try:
            loader.load(chain([first], incoming))
            remote.refresh()
            self._check_count(len(seen))
            self._check_empty(records, len(seen))
        except BaseException:
            remote.give_up_load(self.replicas)
            raise
        remote.end_load(self.replicas)
        remote.complete(_finished(metadata, records, len(seen)))
        return self._index

    def _check_count(self, sent: int) -> None:
        found = self._index.remote.count()
        if found != sent:
            remedy = (
                "those that are too many stem from another input: overwrite=True begins anew" if found > sent else "report this"
            )
            raise ImpactIndexError(f"{self._index.remote} holds {found:,} documents, {sent:,} were sent: {remedy}")

    def _check_empty(self, records: Records, documents: int) -> None:
        if records.loss.postings == 0:
            raise DataError(f"nothing to index: {documents:,} documents, none with an impact above 0")
        share = records.empty / documents
        message = f"{records.empty:,} of {documents:,} documents ({share:.1%}) have no impact above 0: no query finds them"
        if share > self.max_empty:
            raise DataError(f"{message}; does the encoder work? toks_indexer(max_empty=1) indexes them all the same")
        if records.empty:
            warnings.warn(message, stacklevel=2)
        loss = records.loss
        if loss.changed:
            warnings.warn(
                f"rounding to whole impacts changed {loss.share:.3%} of the sum of the weights, and {loss.dropped:,} of "
                f"{loss.postings + loss.dropped:,} weights became 0",
                stacklevel=2,
            )


def _without_duplicates(records: Iterator[Record], seen: Docnos) -> Iterator[Record]:
    for record in records:
        if not seen.add(record.docno):
            raise DataError(f"docno {record.docno!r} comes again: a docno names one document")
        yield record


def _finished(metadata: Metadata, records: Records, documents: int) -> Metadata:
    return metadata.replace(
        contract=records.encoder.contract,
        complete=True,
        documents=documents,
        empty_documents=records.empty,
        postings=records.loss.postings,
        dropped=records.loss.dropped,
        quantization_loss=records.loss.share,
    )
