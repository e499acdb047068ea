"""Adapters for other engines that index the same sparse vectors, each an optional extra.

An engine's index is built like an :class:`~pyterrier_csplade.ImpactIndex`, from documents with ``toks`` or from a bulk
encoder's vectors, and its retrievers return the same columns::

    from pyterrier_csplade.engines import PisaEngine

    index = PisaEngine("my.pisa")
    (csplade.doc_encoder() >> index).index(dataset.get_corpus_iter())
    pipeline = csplade.query_encoder() >> index.retriever()

Export functions write the vectors as files for further tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyterrier_csplade._lazy import lazy

if TYPE_CHECKING:
    from .anserini import AnseriniEngine
    from .engine import Engine
    from .formats import export_ciff, export_json_vectors, export_lsr_benchmark
    from .pisa import PisaEngine
    from .seismic import SeismicEngine

__all__ = [
    "AnseriniEngine",
    "Engine",
    "PisaEngine",
    "SeismicEngine",
    "export_ciff",
    "export_json_vectors",
    "export_lsr_benchmark",
]

_MODULES = {
    "AnseriniEngine": "anserini",
    "Engine": "engine",
    "PisaEngine": "pisa",
    "SeismicEngine": "seismic",
    "export_ciff": "formats",
    "export_json_vectors": "formats",
    "export_lsr_benchmark": "formats",
}

__getattr__, __dir__ = lazy(__name__, _MODULES)
