"""Documents, queries and judgements: files, directories and PyTerrier datasets, read by name."""

from __future__ import annotations

from .directory import CollectionFiles
from .jsonl import parse_object, read_jsonl, read_lines
from .python_docs import CspladeDatasetProvider, PythonDoc, PythonDocsDataset, read_python_docs
from .queries import suggested_queries
from .runs import read_run
from .sources import Source, dataset_source, find_dataset, open_source, read_corpus
from .topics import read_qrels, read_topics

__all__ = [
    "CollectionFiles",
    "CspladeDatasetProvider",
    "PythonDoc",
    "PythonDocsDataset",
    "Source",
    "dataset_source",
    "find_dataset",
    "open_source",
    "parse_object",
    "read_corpus",
    "read_jsonl",
    "read_lines",
    "read_python_docs",
    "read_qrels",
    "read_run",
    "read_topics",
    "suggested_queries",
]
