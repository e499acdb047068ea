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
    from pyterrier_csplade.engines.opensearch import OpenSearchIndex
    from pyterrier_csplade.index.index import ImpactIndex
    from pyterrier_csplade.model.csplade import CSPLADE
    from pyterrier_csplade.model.export import export_sentence_transformers
    from pyterrier_csplade.vectors.contract import Contract, contract_preset
    from pyterrier_csplade.vectors.impacts import ImpactVector, Quantizer
    from pyterrier_csplade.vectors.matrices import MatrixVectors
    from pyterrier_csplade.vectors.pruning import PruneToks
    from pyterrier_csplade.vectors.vocabulary import Vocabulary

    from ._errors import CollectionError, ConfigError, ContractError, CspladeError, DataError, ImpactIndexError, TrainingError
    from .collection import EncodedCollection
    from .evaluation import exact_recall, plot_tradeoff


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
    "CSPLADE": "model.csplade",
    "CollectionError": "_errors",
    "ConfigError": "_errors",
    "Contract": "vectors.contract",
    "ContractError": "_errors",
    "CspladeError": "_errors",
    "DataError": "_errors",
    "EncodedCollection": "collection",
    "ImpactIndex": "index.index",
    "ImpactIndexError": "_errors",
    "ImpactVector": "vectors.impacts",
    "MatrixVectors": "vectors.matrices",
    "OpenSearchIndex": "engines.opensearch",
    "PruneToks": "vectors.pruning",
    "Quantizer": "vectors.impacts",
    "TrainingError": "_errors",
    "Vocabulary": "vectors.vocabulary",
    "contract_preset": "vectors.contract",
    "export_sentence_transformers": "model.export",
    "exact_recall": "evaluation",
    "plot_tradeoff": "evaluation",
}

__getattr__, __dir__ = lazy(__name__, _MODULES)
