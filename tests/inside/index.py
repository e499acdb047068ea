"""Inside of ``pyterrier_csplade.index``, and what its tests need from the folders below it."""

from __future__ import annotations

from pyterrier_csplade.cli.demo import _explanation
from pyterrier_csplade.data.python_docs import PythonDocsDataset
from pyterrier_csplade.index import documents, opened, spool
from pyterrier_csplade.index.documents import to_impact_array, to_impacts
from pyterrier_csplade.index.metadata import read_metadata
from pyterrier_csplade.index.search import blocks, bmp, builder, exhaustive, order
from pyterrier_csplade.index.search.blocks import BLOCKS_OF_GROUP
from pyterrier_csplade.index.search.exhaustive import _NumpySearcher
from pyterrier_csplade.index.search.kernels import available
from pyterrier_csplade.index.search.kernels.available import kernels
from pyterrier_csplade.index.search.term_counts import bm25, folded
from pyterrier_csplade.index.terrier import inverted, reader
from pyterrier_csplade.index.terrier.bits import PostingFile
from pyterrier_csplade.index.terrier.java import _has_java
from pyterrier_csplade.storage import manifest, workspace
from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter
from pyterrier_csplade.storage.manifest import MANIFEST_FILE, read_whole
from pyterrier_csplade.storage.workspace import _exchange, publishing
from pyterrier_csplade.vectors import matrices
from pyterrier_csplade.vectors.checks import MAX_DOCNO_LENGTH, check_docno
from pyterrier_csplade.vectors.vocabulary import is_index_term

__all__ = [
    "BLOCKS_OF_GROUP",
    "MANIFEST_FILE",
    "MAX_DOCNO_LENGTH",
    "ArrayFile",
    "ArrayWriter",
    "PostingFile",
    "PythonDocsDataset",
    "_NumpySearcher",
    "_exchange",
    "_explanation",
    "_has_java",
    "available",
    "blocks",
    "bm25",
    "bmp",
    "builder",
    "check_docno",
    "documents",
    "exhaustive",
    "folded",
    "inverted",
    "is_index_term",
    "kernels",
    "manifest",
    "matrices",
    "order",
    "publishing",
    "read_metadata",
    "read_whole",
    "reader",
    "spool",
    "opened",
    "to_impact_array",
    "to_impacts",
    "workspace",
]
