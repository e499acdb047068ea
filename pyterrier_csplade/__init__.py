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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._contract import Contract
    from ._errors import CollectionError, ConfigError, ContractError, CspladeError, DataError, ImpactIndexError, TrainingError
    from ._impacts import ImpactVector, Quantizer
    from ._index import ImpactIndex
    from ._model import CSPLADE
    from ._plots import plot_tradeoff
    from ._presets import contract_preset
    from ._pruning import PruneToks
    from ._recall import exact_recall
    from ._sentence_transformers import export_sentence_transformers
    from ._vectors import MatrixVectors
    from ._vocabulary import Vocabulary
    from .collection import EncodedCollection
    from .opensearch import OpenSearchIndex

__version__ = "0.1.0"

__all__ = [
    "CSPLADE",
    "CollectionError",
    "ConfigError",
    "Contract",
    "ContractError",
    "CspladeError",
    "DataError",
    "EncodedCollection",
    "ImpactIndex",
    "ImpactIndexError",
    "ImpactVector",
    "MatrixVectors",
    "OpenSearchIndex",
    "PruneToks",
    "Quantizer",
    "TrainingError",
    "Vocabulary",
    "contract_preset",
    "exact_recall",
    "export_sentence_transformers",
    "plot_tradeoff",
]

# Names are imported when they are first used: torch and transformers take seconds, and searching an index needs neither.
_MODULES = {
    "CSPLADE": "_model",
    "CollectionError": "_errors",
    "ConfigError": "_errors",
    "Contract": "_contract",
    "ContractError": "_errors",
    "CspladeError": "_errors",
    "DataError": "_errors",
    "EncodedCollection": "collection",
    "ImpactIndex": "_index",
    "ImpactIndexError": "_errors",
    "ImpactVector": "_impacts",
    "MatrixVectors": "_vectors",
    "OpenSearchIndex": "opensearch",
    "PruneToks": "_pruning",
    "Quantizer": "_impacts",
    "TrainingError": "_errors",
    "Vocabulary": "_vocabulary",
    "contract_preset": "_presets",
    "export_sentence_transformers": "_sentence_transformers",
    "exact_recall": "_recall",
    "plot_tradeoff": "_plots",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
