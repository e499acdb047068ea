"""splade-index: a compiled exhaustive scan of a matrix in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade.engines.engine import Documents, Engine, EngineRetriever, to_arrays
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter

_FILE = "splade_index.bin"


class SpladeIndexEngine(Engine):
    """The search of splade-index over a matrix of impacts, which scores every posting of every query term."""

    schematic = {"label": "SpladeIndexEngine", "help_url": None}
    name, module, extra = "splade-index", "splade_index.numba.retrieve_utils", "splade-index"

    def retriever(self, *, num_results: int = 1000, threads: int = 1, verbose: bool = False) -> SpladeIndexRetriever:
        """Return a retriever of queries with ``query_toks``. Scores are the dot product, in single precision.

        Args:
            num_results: Maximum number of documents for each query.
            threads: Number of threads to search with.
            verbose: Has no effect.
        """
        return SpladeIndexRetriever(self, num_results=num_results, threads=threads, verbose=verbose)

    def load(self, directory: Path) -> Any:
        """Return the matrix in the form that splade-index uses."""
        file = ArrayFile(directory / _FILE, memory=True)
        return {**{name: file[name] for name in ("data", "indices", "indptr")}, "num_docs": file.metadata["documents"]}

    def _build(self, documents: Documents, directory: Path) -> None:
        vectors = [to_arrays(toks) for toks in documents]
        indptr = np.concatenate([[0], np.cumsum([len(numbers) for numbers, _ in vectors])])
        numbers, impacts = (np.concatenate(parts) for parts in zip(*vectors))
        columns = csr_matrix((impacts, numbers, indptr), shape=(len(documents), len(documents.terms))).tocsc()
        writer = ArrayWriter(directory / _FILE)
        writer.add("data", columns.data.astype(np.float32))
        writer.add("indices", columns.indices.astype(np.int32))
        writer.add("indptr", columns.indptr.astype(np.int32))
        writer.finish({"documents": len(documents)})


class SpladeIndexRetriever(EngineRetriever):
    """Retrieves with splade-index."""

    schematic = {"label": "SpladeIndex", "help_url": None}

    def _run(self, engine: Any, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        if not queries:
            return {}
        vectors = [to_arrays(query) for query in queries.values()]
        # Its public method needs a sentence-transformers model to encode the queries.
        search = self.engine.package()._retrieve_numba_functional
        docids, scores = search(
            query_tokens_ids=[numbers for numbers, _ in vectors],
            query_tokens_weights=[weights for _, weights in vectors],
            scores=engine,
            k=min(self.num_results, engine["num_docs"]),
            n_threads=self.threads,
        )
        return {
            qid: Hits(rows.astype(np.int64), values.astype(np.float64)) for qid, rows, values in zip(queries, docids, scores)
        }
