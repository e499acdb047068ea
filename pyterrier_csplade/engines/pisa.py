"""PISA, through pyterrier-pisa."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._settings import CheckedAttribute
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.vectors.checks import check_one_of

from .engine import Documents, Engine, EngineRetriever, Opened

_ALGORITHMS = ("maxscore", "block_max_wand", "block_max_maxscore", "wand", "ranked_or")
# Number of documents that pyterrier-pisa inverts together; our choice (measured: its objects take about 10 kB per document).
_BATCH = 20_000
# Maximum number of repeated terms of a query, which PISA sorts; our choice (not measured).
_MAX_REPETITIONS = 10**7


class PisaEngine(Engine):
    """An index of PISA (Mallia et al., OSIRRC 2019): compressed postings, MaxScore, WAND and Block-Max WAND.

    Terms are stored as numbers, because PISA folds the case of query terms and splits its lexicon at line breaks.
    """

    name, module, extra = "pisa", "pyterrier_pisa", "pisa"
    ARTIFACT_FORMAT = "csplade_pisa"

    def retriever(
        self,
        *,
        query_algorithm: str = "maxscore",
        toks_scale: float = 1000.0,
        num_results: int = 1000,
        threads: int = 1,
        verbose: bool = False,
    ) -> PisaRetriever:
        """Return a retriever of queries with ``query_toks``.

        PISA repeats a query's terms to weight them, so weights are rounded to multiples of ``1 / toks_scale``. Scores are the
        dot product with the rounded weights, in single precision.

        Args:
            query_algorithm: "maxscore", "block_max_wand", "block_max_maxscore", "wand" or "ranked_or"; the default is our
                choice (measured: twice as fast as block_max_wand, pyterrier-pisa's default, on such vectors).
            toks_scale: Number of repetitions for the weight 1; our choice (measured: pyterrier-pisa's default of 100 changes
                the top 10 of 4 to 10 % of the queries, and 1000 of up to 1 %).
            num_results: Maximum number of documents for each query.
            threads: Number of threads to search with.
            verbose: Whether to show a progress bar.
        """
        return PisaRetriever(
            self,
            query_algorithm=query_algorithm,
            toks_scale=toks_scale,
            num_results=num_results,
            threads=threads,
            verbose=verbose,
        )

    def open_in(self, directory: Path) -> Any:
        """Return the PisaIndex."""
        return self.package().PisaIndex(str(directory), stemmer="none", stops="none", batch_size=_BATCH)

    def _build(self, documents: Documents, directory: Path) -> None:
        index = self.open_in(directory)
        index.toks_indexer(scale=1.0).index(_records(documents))
        # The first retriever compresses the postings. It is created here, so that the manifest lists these files, too.
        index.quantized(num_results=1)


def _check_scale(toks_scale: Any) -> Any:
    if not (isinstance(toks_scale, Real) and 0 < float(toks_scale) < float("inf")):
        raise ValueError(f"toks_scale must be above 0 and finite, found {toks_scale!r:.60}")
    return toks_scale


def _check_algorithm(query_algorithm: Any) -> Any:
    check_one_of("query_algorithm", query_algorithm, _ALGORITHMS)
    return query_algorithm


class PisaRetriever(EngineRetriever):
    """Retrieves with PISA."""

    #: PISA's algorithm.
    query_algorithm = CheckedAttribute(_check_algorithm)
    #: Number of repetitions of a term with the weight 1.
    toks_scale = CheckedAttribute(_check_scale)

    def __init__(
        self,
        engine: PisaEngine,
        *,
        query_algorithm: str = "maxscore",
        toks_scale: float = 1000.0,
        num_results: int = 1000,
        threads: int = 1,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`PisaEngine.retriever` explains the arguments."""
        super().__init__(engine, num_results=num_results, threads=threads, verbose=verbose)
        self.query_algorithm = query_algorithm
        self.toks_scale = toks_scale

    def _run(self, index: Opened, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        repeated = {qid: self._repeat(qid, query) for qid, query in queries.items()}
        repeated = {qid: query for qid, query in repeated.items() if query}
        if not repeated:
            return {}
        frame = pd.DataFrame({"qid": list(repeated), "query_toks": list(repeated.values())})
        found = self._retriever(index).transform(frame)
        docids, scores = found["docno"].to_numpy().astype(np.int64), found["score"].to_numpy().astype(np.float64)
        rows = found.groupby("qid", sort=False).indices
        return {qid: Hits(docids[at], scores[at] / self.toks_scale) for qid, at in rows.items()}

    def _repeat(self, qid: str, query: dict[int, float]) -> dict[str, float]:
        weights = {str(number): float(int(weight * self.toks_scale + 0.5)) for number, weight in query.items()}
        if sum(weights.values()) > _MAX_REPETITIONS:
            raise DataError(f"query {qid!r}: PISA would repeat its terms too often: use a smaller toks_scale")
        return {term: weight for term, weight in weights.items() if weight}

    def _retriever(self, index: Opened) -> Any:
        settings = {
            "num_results": self.num_results,
            "query_algorithm": self.query_algorithm,
            "threads": self.threads,
            "verbose": self.verbose,
        }
        return index.searcher(tuple(settings.values()), lambda: index.engine.quantized(toks_scale=1.0, **settings))


def _records(documents: Documents) -> Iterator[dict[str, Any]]:
    for docid, toks in enumerate(documents):
        yield {"docno": str(docid), "toks": {str(number): impact for number, impact in toks.items()}}
