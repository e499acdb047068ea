"""The Terrier index of impacts: how it is built, checked, opened and searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyterrier_csplade._lazy import lazy

if TYPE_CHECKING:
    from .documents import take_documents, take_vectors
    from .index import ImpactIndex
    from .indexer import ImpactIndexer
    from .postings_retriever import PostingsRetriever, PostingsScorer
    from .retrieval import IndexRetriever
    from .spool import Spool
    from .stored import StoredIndex
    from .terrier_retriever import ImpactRetriever

__all__ = [
    "ImpactIndex",
    "ImpactIndexer",
    "ImpactRetriever",
    "IndexRetriever",
    "PostingsRetriever",
    "PostingsScorer",
    "Spool",
    "StoredIndex",
    "take_documents",
    "take_vectors",
]

# Lazy, because PyTerrier imports ``.terrier.java`` whenever it starts Java.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "ImpactIndex": "index",
        "ImpactIndexer": "indexer",
        "ImpactRetriever": "terrier_retriever",
        "IndexRetriever": "retrieval",
        "PostingsRetriever": "postings_retriever",
        "PostingsScorer": "postings_retriever",
        "Spool": "spool",
        "StoredIndex": "stored",
        "take_documents": "documents",
        "take_vectors": "documents",
    },
)
