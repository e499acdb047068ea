"""An OpenSearch index of impacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.queries.table import QueryTable
from pyterrier_csplade.storage.files import write_atomically
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.matrices import EncodedVectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .connection import Connection
from .indexer import OpenSearchIndexer
from .mapping import TermNames
from .query_tables import store, tokenizer_model
from .remote import ClusterIndex, RemoteIndex
from .retrievers import BM25Retriever, OpenSearchRetriever, OpenSearchScorer


class OpenSearchIndex(ClusterIndex):
    """An OpenSearch index of impacts, searched by exact dot product.

    It replaces :class:`~pyterrier_csplade.ImpactIndex` in a pipeline. The documents' impacts are a field of type
    ``rank_features``; the mapping's ``_meta`` contains the contract of their encoder and how they were quantised.

    Example::

        from pyterrier_csplade import OpenSearchIndex, hybrid

        index = OpenSearchIndex("https://localhost:9200", "docs", auth=("user", "password"))
        (csplade.doc_encoder() >> index.toks_indexer(text="text")).index(dataset.get_corpus_iter())
        retriever = csplade.query_encoder() >> index.retriever()
        fused = hybrid(index.bm25(), retriever)
    """

    def __init__(
        self,
        server: Any,
        name: str,
        *,
        auth: tuple[str, str] | None = None,
        ca_certs: str | None = None,
        vocabulary: Vocabulary | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Name an index, which need not exist yet. Nothing is sent.

        Args:
            server: URL of the cluster, or a client of opensearch-py, such as one that signs requests for AWS. With an https
                URL, the certificate of the server is verified.
            name: Name of the index. For retrieval, it can also be an alias of one index, or of several indexes that were built
                with the same settings.
            auth: User and password, which the URL may contain instead. Neither repr nor messages show them, but a pickle of the
                index or of its retrievers contains them, because worker processes need them: keep it as secret as the password.
            ca_certs: File with the certificates to trust instead of the system's.
            vocabulary: ``csplade.vocabulary``, to name terms in the index by their token ids (``t12345``) instead of by their
                own strings. Indexing and retrieval must do the same.
            timeout: Seconds to wait for an answer before the request is sent again; our choice (not measured).

        Raises:
            ValueError: The URL or the name is malformed.
        """
        if (
            not isinstance(name, str)
            or not name
            or name[0] in "-_+."
            or name != name.lower()
            or set(name) & set('\\/*?"<>| ,#:')
            or len(name.encode()) > 255
        ):
            raise ValueError(
                f"OpenSearch does not accept {name!r} as the name of an index: use lower-case letters, digits, - and _"
            )
        connection = Connection(server, auth=auth, ca_certs=ca_certs, timeout=timeout)
        super().__init__(RemoteIndex(connection, name, TermNames(vocabulary)))

    @property
    def contract(self) -> Contract | None:
        """The contract of the document encoder; None if it is unknown or there is no index."""
        metadata = self.remote.find()
        return None if metadata is None else metadata.contract

    @property
    def statistics(self) -> dict[str, Any]:
        """Counts of the index: documents, empty_documents, postings, dropped (weights that became 0), quantization_loss.

        Raises:
            ImpactIndexError: There is no complete index.
        """
        metadata = self.remote.open()
        names = ("documents", "empty_documents", "postings", "dropped", "quantization_loss")
        return {name: getattr(metadata, name) for name in names}

    def built(self) -> bool:
        """Whether there is a complete index."""
        metadata = self.remote.find()
        return metadata is not None and metadata.complete

    def __len__(self) -> int:
        return self.remote.count()

    def __bool__(self) -> bool:
        return True  # not the length, for which a request would be sent

    def toks_indexer(
        self,
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
    ) -> OpenSearchIndexer:
        """Return an indexer of documents with ``docno`` and ``toks`` (term to impact).

        Weights are multiplied by ``scale`` and rounded half up; impacts of 0 and less are left out. Impacts above 512, and
        terms and docnos that OpenSearch cannot store exactly, are refused with a message that names the document, as are
        a repeated docno and a weight that is not finite.

        Args:
            meta: Fields to store, to filter by and to return: their names, or name to type of OpenSearch ("keyword", "integer",
                "date", ...; a name without a type is a keyword).
            text: Field with text to index for :meth:`bm25`.
            analyzer: OpenSearch's analyzer of that text. The default stems and drops stop words.
            scale: Factor of the weights. 1 keeps the impacts of ``csplade.doc_encoder()``.
            shards: Number of primary shards. OpenSearch recommends one for every 10 to 50 GB.
            replicas: Number of copies of each shard after the load; there are none during the load.
            overwrite: Whether to delete an index of this name first. To replace an index without interruption, load under
                another name and switch an alias.
            max_empty: Maximum share of documents without any impact, as in :meth:`ImpactIndex.toks_indexer`.
            parallel: Maximum number of bulk requests in flight; our choice (not measured).
            request_bytes: Maximum size of a bulk request. OpenSearch recommends 5 to 15 MB.
            verbose: Whether to show a progress bar.
        """
        return OpenSearchIndexer(
            self, meta=meta, text=text, analyzer=analyzer, scale=scale, shards=shards, replicas=replicas, overwrite=overwrite,
            max_empty=max_empty, parallel=parallel, request_bytes=request_bytes, verbose=verbose,
        )  # fmt: skip

    def index(self, iter: Iterable[Mapping[str, Any]], **kwargs: Any) -> OpenSearchIndex:
        """Load documents with ``docno`` and ``toks``, and return this index; :meth:`toks_indexer` explains the rules.

        Args:
            iter: The documents.
            **kwargs: Not supported; :meth:`toks_indexer` takes options.
        """
        return self.toks_indexer().index(iter, **kwargs)

    def index_vectors(
        self, vectors: EncodedVectors, documents: Iterable[Mapping[str, Any]] | None = None, **options: Any
    ) -> OpenSearchIndex:
        """Load encoded documents, and return this index.

        Args:
            vectors: The docnos and vectors.
            documents: The documents in the same order, with ``docno`` and the fields, if ``options`` name fields to store.
            **options: Arguments of :meth:`toks_indexer`.
        """
        return self.toks_indexer(**options).index_vectors(vectors, documents)

    def index_inputs(self) -> list[list[str]]:
        """Return the columns that documents need."""
        return self.toks_indexer().index_inputs()

    def retriever(
        self,
        *,
        num_results: int = 1000,
        filter: Mapping[str, Any] | None = None,
        include_fields: list[str] | None = None,
        batch_size: int = 32,
        verbose: bool = False,
    ) -> OpenSearchRetriever:
        """Return a retriever of queries with ``query_toks`` (term to weight), by dot product.

        Args:
            num_results: Maximum number of documents for each query, from 1 to 10,000.
            filter: A query in OpenSearch's query DSL that results must match, such as ``{"term": {"book": "physics"}}`` or
                ``{"range": {"year": {"gte": 2020}}}``. It does not change scores.
            include_fields: Stored fields to return besides the docno.
            batch_size: Number of queries in a request; our choice (not measured).
            verbose: Whether to show a progress bar.
        """
        return OpenSearchRetriever(
            self, num_results=num_results, filter=filter, include_fields=include_fields, batch_size=batch_size, verbose=verbose
        )

    def bm25(
        self,
        *,
        num_results: int = 1000,
        filter: Mapping[str, Any] | None = None,
        include_fields: list[str] | None = None,
        batch_size: int = 32,
        verbose: bool = False,
    ) -> BM25Retriever:
        """Return a retriever of queries with ``query``, by BM25 on the text of the same documents.

        Its statistics cover the whole index, regardless of the number of shards. :meth:`retriever` explains the arguments.
        """
        return BM25Retriever(
            self, num_results=num_results, filter=filter, include_fields=include_fields, batch_size=batch_size, verbose=verbose
        )

    def scorer(self, *, batch_size: int = 32, verbose: bool = False) -> OpenSearchScorer:
        """Return a transformer that scores documents of other systems by the dot product with ``query_toks``.

        Args:
            batch_size: Number of searches, of up to 1,000 documents each, in a request; our choice (not measured).
            verbose: Whether to show a progress bar.
        """
        return OpenSearchScorer(self, batch_size=batch_size, verbose=verbose)

    def put_query_table(self, table: QueryTable) -> str:
        """Store a query table on the server, so that other programs search with texts; see :doc:`/opensearch`.

        The table becomes an ingest pipeline with a Painless script, which every distribution of OpenSearch can run. Before it
        is stored, the server encodes some texts with it, and its vectors are compared with the table's. A table of the same
        index is replaced.

        Args:
            table: A table for the encoder of the index's documents.

        Returns:
            The name of the pipeline.

        Raises:
            ContractError: The table belongs to another encoder, or its tokenizer is not a byte-level BPE that splits texts in
                the same way as GPT-2, SmolLM2, Llama 3 or Qwen 2.
            ImpactIndexError: There is no complete index, or the server does not encode a text as the table does.
        """
        documents = self.remote.open().contract
        if documents is not None and not table.contract.answers(documents):
            raise ContractError(
                f"{table.contract.summary} makes no queries for {self.remote}, whose documents come from {documents.summary}"
            )
        name = f"csplade-{self.remote.name}"
        store(self.remote.connection, name, table, self.remote.names)
        return name

    def save_tokenizer_model(self, table: QueryTable, path: str | Path) -> None:
        """Write a query table as a model of the plugin ml-commons, for ``neural_sparse`` queries; see :doc:`/opensearch`.

        The ZIP file has the layout of OpenSearch's own sparse tokenizers, ``tokenizer.json`` and ``idf.json``. Nothing is sent.

        Args:
            table: A table without expansion (``Filling(kind="counts")``) whose tokens count once.
            path: The ZIP file; an existing file is replaced.

        Raises:
            ContractError: Such a model cannot express the table; the message names the unsupported part.
        """
        write_atomically(Path(path), tokenizer_model(table, self.remote.names))

    def allow_query_terms(self, terms: int = 4096) -> None:
        """Allow queries with more terms than a cluster's default limit of 1,024.

        Sets ``indices.query.bool.max_clause_count`` permanently for all indexes of the cluster.

        Args:
            terms: Maximum number of terms of a query.
        """
        self.remote.allow_query_terms(terms)
