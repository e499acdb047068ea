"""Documents, queries and judgements: files, directories and PyTerrier datasets, read by name."""

from __future__ import annotations

from .directory import CollectionFiles
from .jsonl import read_jsonl
from .python_docs import CspladeDatasetProvider, PythonDocsDataset, read_python_docs
from .queries import suggested_queries
from .runs import read_run
from .sources import Source, dataset_source, open_source, read_corpus
from .topics import read_qrels, read_topics

__all__ = [
    "CollectionFiles",
    "CspladeDatasetProvider",
    "PythonDocsDataset",
    "Source",
    "dataset_source",
    "open_source",
    "read_corpus",
    "read_jsonl",
    "read_python_docs",
    "read_qrels",
    "read_run",
    "read_topics",
    "suggested_queries",
]
