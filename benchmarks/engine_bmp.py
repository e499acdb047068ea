"""BMP, the authors' implementation of block-max pruning, through the package bmp."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade.engines.engine import Documents, Engine, EngineRetriever
from pyterrier_csplade.index.search.algorithm import Hits

_FILE = "index.bmp"
# Limits of bmp 0.2.8: 16 bits for a term, 8 bits for an impact and for a place in a block, 16 bits for a score.
_MAX_TERMS, _MAX_IMPACT, _MAX_BLOCK, _MAX_SCORE = 2**16, 2**8 - 1, 2**8, 2**16 - 1
# bmp turns a query's weights into whole numbers from 1 to 32.
_QUERY_LEVELS = 32
# bmp never scores the last block that it visits: two blocks of documents that match every query are added at the end.
_PADDING = 2
_PADDING_TERM = "padding"


class BmpEngine(Engine):
    """An index of BMP (Mallia, Suel, Tonellotto, SIGIR 2024), in the authors' implementation.

    Use it for comparisons only. ``ImpactIndex.retriever(algorithm="bmp")`` is exact, but this engine is not: bmp 0.2.8 keeps 5
    bits of a query's weights, so about half of the queries have a different top 10, and it may miss documents even with
    ``alpha=1``.
    """

    schematic = {"label": "BmpEngine", "help_url": None}
    name, module, extra = "bmp", "bmp", "bmp"

    def __init__(self, path: str | Path, *, block_size: int = 32, compress_range: bool = False) -> None:
        """Name an index, which need not exist yet, and set how it is built.

        Args:
            path: Directory of the index.
            block_size: Number of documents in a block, at most 256.
            compress_range: Whether to store only block maxima above 0.

        Raises:
            ValueError: The block size is larger than bmp can store.
        """
        super().__init__(path)
        if not 1 <= block_size <= _MAX_BLOCK:
            raise ValueError(f"block_size must be from 1 to {_MAX_BLOCK}, found {block_size}")
        self.block_size = block_size
        self.compress_range = compress_range

    def retriever(
        self, *, alpha: float = 1.0, beta: float = 1.0, num_results: int = 1000, threads: int = 1, verbose: bool = False
    ) -> BmpRetriever:
        """Return a retriever of queries with ``query_toks``.

        Scores are bmp's own whole numbers, on a scale that differs from query to query; they are not the dot product and cannot
        be converted to it.

        Args:
            alpha: A block is skipped if its bound times ``alpha`` is below the lowest score of the results so far.
            beta: Share of the query's terms to keep, the heaviest first.
            num_results: Maximum number of documents for each query.
            threads: Must be 1, because bmp has no threads.
            verbose: Has no effect.
        """
        return BmpRetriever(self, alpha=alpha, beta=beta, num_results=num_results, threads=threads, verbose=verbose)

    def load(self, directory: Path) -> Any:
        """Return the Searcher."""
        return self.package().Searcher(str(directory / _FILE))

    def _build(self, documents: Documents, directory: Path) -> None:
        if len(documents.terms) >= _MAX_TERMS:
            raise DataError(
                f"bmp numbers at most {_MAX_TERMS - 1:,} terms, these documents have {len(documents.terms):,}: use "
                'ImpactIndex.retriever(algorithm="bmp") or another engine, or prune with PruneToks'
            )
        bmp = self.package()
        indexer = bmp.Indexer(str(directory / _FILE), self.block_size, self.compress_range)
        for docid, toks in enumerate(documents):
            if max(toks.values(), default=0) > _MAX_IMPACT:
                raise DataError(
                    f"document {documents.docnos[docid]!r} has an impact of {max(toks.values()):,}, but bmp stores at "
                    f"most {_MAX_IMPACT}: give the encoder a quantizer with a smaller scale"
                )
            indexer.add_document(str(docid), {str(number): impact for number, impact in toks.items()})
        # The last block is filled first, so that the padding has blocks of its own.
        for docid in range(len(documents), _end_of_padding(len(documents), self.block_size)):
            indexer.add_document(str(docid), {_PADDING_TERM: 1})
        indexer.finish()


class BmpRetriever(EngineRetriever):
    """Retrieves with the package bmp."""

    schematic = {"label": "BmpRetriever", "help_url": None}

    def __init__(
        self,
        engine: BmpEngine,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        num_results: int = 1000,
        threads: int = 1,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`BmpEngine.retriever` explains the arguments."""
        super().__init__(engine, num_results=num_results, threads=threads, verbose=verbose)
        if threads != 1:
            raise ValueError(f"bmp searches with one thread, found threads={threads}")
        for name, value in {"alpha": alpha, "beta": beta}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, found {value}")
        self.alpha = alpha
        self.beta = beta

    def _run(self, engine: Any, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        return {qid: self._run_one(engine, qid, query) for qid, query in queries.items()}

    def _run_one(self, engine: Any, qid: str, query: dict[int, float]) -> Hits:
        heaviest = max(query.values())
        bound = sum(math.ceil(_QUERY_LEVELS * weight / heaviest) for weight in query.values()) * _MAX_IMPACT
        if bound > _MAX_SCORE:
            warnings.warn(
                f"bmp keeps scores in 16 bits: documents with most terms of query {qid!r} may be missing", stacklevel=6
            )
        weights = {str(number): weight for number, weight in query.items()}
        weights[_PADDING_TERM] = heaviest / _QUERY_LEVELS
        try:
            found, scores = engine.search(weights, self.num_results, self.alpha, self.beta)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # panics of Rust are not subclasses of Exception
            raise ImpactIndexError(
                f"bmp failed at query {qid!r} ({error}), as it does where many scores tie: use "
                'ImpactIndex.retriever(algorithm="bmp")'
            ) from error
        docids = np.array([int(docid) for docid in found], dtype=np.int64)
        kept = docids < len(self.engine)
        return Hits(docids[kept], np.array(scores, dtype=np.float64)[kept])


def _end_of_padding(documents: int, block_size: int) -> int:
    return (-(-documents // block_size) + _PADDING) * block_size
