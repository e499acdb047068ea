"""Learned sparse retrieval with causal language models (CSPLADE) for PyTerrier.

Example::

    import pyterrier as pt
    from pyterrier_csplade import CSPLADE, ImpactIndex

    csplade = CSPLADE.tiny()
    index = ImpactIndex("docs.csplade")
    (csplade.doc_encoder() >> index).index([{"docno": "d1", "text": "Sparse vectors live in inverted indexes."}])
    retriever = csplade.query_encoder() >> index.retriever(num_results=10)
    retriever.search("inverted index")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._errors import CollectionError, ConfigError, ContractError, CspladeError, DataError, ImpactIndexError, TrainingError
    from .collection import EncodedCollection
    from .engines.opensearch import OpenSearchIndex
    from .evaluation import exact_recall, plot_tradeoff
    from .fusion import Hybrid, hybrid
    from .images import ImageEncoder, show_pictures
    from .index.index import ImpactIndex
    from .model.csplade import CSPLADE
    from .model.export import export_sentence_transformers
    from .queries.table import QueryTable
    from .vectors import (
        Contract,
        FoldTerms,
        ImpactVector,
        MatrixVectors,
        MergeToks,
        PruneToks,
        Quantizer,
        Vocabulary,
        contract_preset,
    )  # fmt: skip


__all__ = [
    "CSPLADE",
    "CollectionError",
    "ConfigError",
    "Contract",
    "ContractError",
    "CspladeError",
    "DataError",
    "EncodedCollection",
    "FoldTerms",
    "Hybrid",
    "ImageEncoder",
    "ImpactIndex",
    "ImpactIndexError",
    "ImpactVector",
    "MatrixVectors",
    "MergeToks",
    "OpenSearchIndex",
    "PruneToks",
    "Quantizer",
    "QueryTable",
    "TrainingError",
    "Vocabulary",
    "contract_preset",
    "exact_recall",
    "export_sentence_transformers",
    "hybrid",
    "plot_tradeoff",
    "show_pictures",
]

# Names are imported at first use: torch and transformers take seconds to import, and searching needs neither.
_NAMES = {
    "_errors": [name for name in __all__ if name.endswith("Error")],
    "collection": ["EncodedCollection"],
    "engines.opensearch": ["OpenSearchIndex"],
    "evaluation": ["exact_recall", "plot_tradeoff"],
    "fusion": ["Hybrid", "hybrid"],
    "images": ["ImageEncoder", "show_pictures"],
    "index.index": ["ImpactIndex"],
    "model.csplade": ["CSPLADE"],
    "model.export": ["export_sentence_transformers"],
    "queries.table": ["QueryTable"],
    "vectors": [
        "Contract",
        "FoldTerms",
        "ImpactVector",
        "MatrixVectors",
        "MergeToks",
        "PruneToks",
        "Quantizer",
        "Vocabulary",
        "contract_preset",
    ],
}

__getattr__, __dir__ = lazy(__name__, {name: module for module, names in _NAMES.items() for name in names})
