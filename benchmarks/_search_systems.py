"""The systems that benchmarks/search.py compares: this package's algorithms, Terrier, other engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt
from _search_indexes import directory_megabytes, timed
from engine_bmp import BmpEngine
from engine_splade_index import SpladeIndexEngine
from scipy.sparse import csr_matrix

from pyterrier_csplade import CspladeError, ImpactIndex, engines
from pyterrier_csplade.index.postings_retriever import PostingsRetriever
from pyterrier_csplade.index.search.algorithm import algorithm
from pyterrier_csplade.vectors.matrices import EncodedVectors

#: Options of this package's algorithms: system, label, algorithm, options.
OWN: list[tuple[str, str, str, dict[str, Any]]] = [
    ("exhaustive", "", "exhaustive", {}),
    ("MaxScore", "", "maxscore", {}),
    ("bmp, order of indexing", "1", "bmp", {"reordered": False}),
    *(("bmp", f"{alpha}", "bmp", {"alpha": alpha}) for alpha in (1.0, 0.9, 0.8, 0.7)),
    ("bmp, beta 0.7", "0.8", "bmp", {"alpha": 0.8, "beta": 0.7}),
]


GUIDED = [
    (f"{name}", {"alpha": a, "beta": b, "gamma": c})
    for name, a, b, c in (("GT", 1, 1, 0), ("GTI", 1, 1, 0.5), ("2GTI", 1, 0, 0))
]


def own_systems(index: Any, guides: list[str]) -> list[tuple[str, str, Any]]:
    def retriever(name: str, options: dict[str, Any]) -> Any:
        return lambda k: PostingsRetriever(index, algorithm(name, options), num_results=k)

    systems = [(system, label, retriever(name, options)) for system, label, name, options in OWN]
    for guide in guides:
        systems += [(f"guided by {guide}", name, retriever("guided", {"guide": guide, **options})) for name, options in GUIDED]
    if isinstance(index, ImpactIndex):
        systems[:0] = [
            ("PyTerrier", "Retriever", lambda k: pt.terrier.Retriever(index.index_ref(), wmodel="Tf", num_results=k)),
            ("Terrier", "read in bulk", lambda k: index.retriever(num_results=k)),
        ]
    return systems


def engine_systems(
    vectors: EncodedVectors, output: Path, names: list[str]
) -> tuple[list[tuple[str, str, Any]], dict[str, Any]]:
    """Build the other engines; list the engines that cannot be built, with the reasons."""
    eight_bits = Eight(vectors)
    plans: dict[str, list[tuple[str, Any, EncodedVectors, list[tuple[str, dict[str, Any]]]]]] = {
        "pisa": [("PISA", engines.PisaEngine, vectors, [(a, {"query_algorithm": a}) for a in ("maxscore", "block_max_wand")])],
        "splade-index": [("splade-index", SpladeIndexEngine, vectors, [("", {})])],
        "bmp": [
            (f"package bmp, {b}", lambda path, b=b: BmpEngine(path, block_size=b, compress_range=b == 8), eight_bits,
             [(f"{a}", {"alpha": a}) for a in (1.0, 0.9, 0.8, 0.7)])
            for b in (32, 8)
        ],
        "seismic": [
            ("Seismic", engines.SeismicEngine, vectors,
             [(f"{c}, {f}", {"query_cut": c, "heap_factor": f}) for c, f in ((5, 0.7), (10, 0.7), (20, 0.8), (40, 1.0))])
        ],
        "anserini": [("Anserini", engines.AnseriniEngine, vectors, [("", {})])],
    }  # fmt: skip
    systems, facts = [], {}
    for name in names:
        for title, make, source, knobs in plans[name]:
            path = output / title.replace(", ", "-").replace(" ", "-")
            try:
                engine = make(path)
                seconds = 0.0 if path.exists() else timed(lambda: engine.index_vectors(source))[0]  # noqa: B023
                facts[title] = {"build s": seconds, "MB": directory_megabytes(path)}
            except CspladeError as error:
                facts[title] = {"left out": str(error)}
                continue
            for label, options in knobs:
                systems.append((title, label, lambda k, e=engine, o=options: e.retriever(num_results=k, **o)))
    return systems, facts


class Eight:
    """Vectors with impacts of 8 bits, as the package bmp requires; they are scaled down if one is larger."""

    def __init__(self, vectors: EncodedVectors) -> None:
        self.vectors, self.contract, self.vocabulary = vectors, vectors.contract, vectors.vocabulary
        largest = max(matrix.data.max(initial=1) for _, matrix in vectors.blocks())
        self.factor = min(1.0, 255 / largest)

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[tuple[Any, csr_matrix]]:
        """Yield docnos and scaled vectors."""
        for docnos, matrix in self.vectors.blocks():
            scaled = np.maximum(1, np.floor(matrix.data * self.factor + 0.5)).astype(np.int32)
            yield docnos, csr_matrix((scaled, matrix.indices, matrix.indptr), shape=matrix.shape)
