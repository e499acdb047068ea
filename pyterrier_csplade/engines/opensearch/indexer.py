"""The indexer of impacts in OpenSearch."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain
from numbers import Integral, Real
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade._settings import CheckedAttribute, Settings
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.vectors.checks import check_encoded, positive, share
from pyterrier_csplade.vectors.matrices import EncodedVectors

from .bulk import BulkLoader
from .mapping import Fields, Metadata
from .records import Record, Records
from .remote import ClusterIndex


def _check_scale(scale: Any) -> float:
    if not (isinstance(scale, Real) and 0 < float(scale) < float("inf")):
        raise ValueError(f"scale must be positive and finite, found {scale!r:.60}")
    return float(scale)


def _check_replicas(replicas: Any) -> int:
    if not isinstance(replicas, Integral) or replicas < 0:
        raise ValueError(f"replicas must be at least 0, found {replicas!r:.60}")
    return int(replicas)


class OpenSearchIndexer(Settings, pt.Indexer):
    """Loads documents with ``toks`` into an :class:`OpenSearchIndex`; :meth:`OpenSearchIndex.toks_indexer` creates it.

    Documents are stored under their docnos as they arrive, so repeating the call after any failure leads to the same index. The
    index is marked complete, and can be searched, when every document was acknowledged and the server counts as many documents
    as were sent.
    """

    #: Factor of the weights.
    scale = CheckedAttribute(_check_scale)
    #: Number of primary shards.
    shards = CheckedAttribute(positive("shards"))
    #: Number of copies of each shard after the load.
    replicas = CheckedAttribute(_check_replicas)
    #: Maximum share of documents without any impact.
    max_empty = CheckedAttribute(share("max_empty"))
    #: Number of requests at the same time.
    parallel = CheckedAttribute(positive("parallel"))
    #: Size of a request in bytes.
    request_bytes = CheckedAttribute(positive("request_bytes"))

    def __init__(
        self,
        index: ClusterIndex,
        *,
        meta: Iterable[str] | Mapping[str, str] = (),
        text: str | None = None,
        analyzer: str = "english",
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
        self._index = index
        self.meta = Fields(meta, text, analyzer).types or ()
        self.text = text
        self.analyzer = analyzer
        self.scale = scale
        self.shards = shards
        self.replicas = replicas
        self.overwrite = overwrite
        self.max_empty = max_empty
        self.parallel = parallel
        self.request_bytes = request_bytes
        self.verbose = verbose

    @property
    def fields(self) -> Fields:
        """The fields of documents besides docno and impacts."""
        return Fields(self.meta, self.text, self.analyzer)

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return [["docno", "toks", *self.fields.names]]

    def _maker(self) -> str:
        return f"{self._index!r}.toks_indexer"

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self._index,)

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return an empty dict: the index is the target of the load, not a step of a pipeline."""
        return {}

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> ClusterIndex:  # the base class's name
        """Load documents with ``docno``, ``toks`` and the fields, and return the index.

        Args:
            iter: The documents.
            **kwargs: Not supported.

        Raises:
            ContractError: Documents come from different encoders, or from another encoder than the documents in the index.
            DataError: A document cannot be indexed exactly, a docno appears twice, or there is nothing to index.
            ImpactIndexError: There is a complete index already, or the cluster failed.
        """
        if kwargs:
            raise TypeError(f"unknown arguments: {', '.join(kwargs)}")
        records = Records(self._index.remote.names, self.fields, self.scale)
        documents = pt.tqdm(iter, desc="OpenSearchIndexer", unit="d") if self.verbose else iter
        return self._load(records, (records.of_document(document, at) for at, document in enumerate(documents, start=1)))

    def index_vectors(self, vectors: EncodedVectors, documents: Iterable[Mapping[str, Any]] | None = None) -> ClusterIndex:
        """Load encoded documents; see :meth:`OpenSearchIndex.index_vectors`.

        Raises:
            ContractError: As for :meth:`index`.
            DataError: As for :meth:`index`, or the documents do not match the vectors.
            ImpactIndexError: As for :meth:`index`.
        """
        check_encoded(vectors)
        if self.fields.names and documents is None:
            raise ValueError(f"the fields {', '.join(self.fields.names)} need documents=")
        records = Records(self._index.remote.names, self.fields, self.scale)
        found = records.of_vectors(vectors, None if documents is None else iter(documents))
        return self._load(records, pt.tqdm(found, "OpenSearchIndexer", len(vectors), unit="d") if self.verbose else found)

    def _load(self, records: Records, stream: Iterable[Record]) -> ClusterIndex:
        remote = self._index.remote
        found = remote.find()  # before the first document is encoded
        if not self.overwrite:
            remote.refuse_complete(found)
        incoming = iter(stream)
        first = next(incoming, None)
        if first is None:
            raise DataError("nothing to index: there is no document")
        fields = self.fields
        metadata = Metadata(
            remote.names.scheme, self.scale, fields.names, fields.text, records.encoder.contract, build=uuid.uuid4().hex
        )
        remote.begin(metadata, fields, shards=self.shards, overwrite=self.overwrite)
        loader = BulkLoader(remote.connection, remote.name, parallel=self.parallel, request_bytes=self.request_bytes)
        try:
            loader.load(chain([first], incoming))
            remote.refresh()
            self._check_count(len(records.docnos))
            self._check_empty(records)
        except BaseException:
            remote.give_up(self.replicas)
            raise
        metadata = replace(
            metadata,
            contract=records.encoder.contract,
            complete=True,
            documents=len(records.docnos),
            empty_documents=records.empty,
            postings=records.loss.postings,
            dropped=records.loss.dropped,
            quantization_loss=records.loss.share,
        )
        remote.finish(metadata, self.replicas)
        return self._index

    def _check_count(self, sent: int) -> None:
        found = self._index.remote.count()
        if found != sent:
            remedy = "some are from another input: start again with overwrite=True" if found > sent else "please report this"
            raise ImpactIndexError(f"{self._index.remote} contains {found:,} documents, but {sent:,} were sent: {remedy}")

    def _check_empty(self, records: Records) -> None:
        loss, documents = records.loss, len(records.docnos)
        if loss.postings == 0:
            raise DataError(f"nothing to index: {documents:,} documents, none with an impact above 0")
        share = records.empty / documents
        message = (
            f"{records.empty:,} of {documents:,} documents ({share:.1%}) have no impact above 0, so no query can find them"
        )
        if share > self.max_empty:
            raise DataError(f"{message}; check the encoder, or index them anyway with toks_indexer(max_empty=1)")
        if records.empty:
            warn(message)
        if loss.changed:
            warn(
                f"rounding to integer impacts changed {loss.share:.3%} of the sum of the weights, and {loss.dropped:,} of "
                f"{loss.postings + loss.dropped:,} weights became 0"
            )
