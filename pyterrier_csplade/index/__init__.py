"""The Terrier index of impacts: how it is built, checked, opened and searched."""

from __future__ import annotations

from .documents import take_documents, take_vectors
from .fields import FieldLoader
from .index import ImpactIndex
from .indexer import ImpactIndexer
from .postings_retriever import PostingsRetriever, PostingsScorer
from .spool import Spool
from .stored import StoredIndex
from .terrier_retriever import ImpactRetriever

__all__ = [
    "FieldLoader",
    "ImpactIndex",
    "ImpactIndexer",
    "ImpactRetriever",
    "PostingsRetriever",
    "PostingsScorer",
    "Spool",
    "StoredIndex",
    "take_documents",
    "take_vectors",
]
