"""Seismic, through pyseismic-lsr."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from pyterrier_csplade._settings import CheckedAttribute
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.vectors.checks import positive, share

from .engine import Documents, Engine, EngineRetriever, Opened, to_arrays

# Maximum number of terms of the plain classes; classes with LV ("large vocabulary") number terms with 32 bits.
_MAX_TERMS = 2**16
_FILE = "seismic"
# Number of documents that are passed to Seismic together; our choice (not measured).
_BATCH = 10_000


class SeismicEngine(Engine):
    """An index of Seismic (Bruch, Nardini, Rulli, Venturini, SIGIR 2024): approximate, the fastest on large collections.

    The documents of a posting list are clustered and summarised; a search visits the clusters whose summaries score high
    enough. Scores are the exact dot product, but some documents are missed: see :func:`pyterrier_csplade.exact_recall`. The
    time to build grows with the number of posting lists: 20,000 documents took 39 s with 32,000 terms, 442 s with 120,000.
    """

    name, module, extra = "seismic", "seismic", "seismic"
    ARTIFACT_FORMAT = "csplade_seismic"

    #: Average number of postings of a term that are kept.
    n_postings = CheckedAttribute(positive("n_postings"))
    #: Number of clusters of a list as a share of its postings.
    centroid_fraction = CheckedAttribute(share("centroid_fraction", above_zero=True))
    #: Share of the mass of a cluster's maxima that its summary keeps.
    summary_energy = CheckedAttribute(share("summary_energy", above_zero=True))
    #: Number of threads to build with.
    threads = CheckedAttribute(positive("threads"))

    def __init__(
        self,
        path: str | Path,
        *,
        n_postings: int = 3500,
        centroid_fraction: float = 0.1,
        summary_energy: float = 0.4,
        threads: int = 1,
    ) -> None:
        """Name an index, which need not exist yet, and set how it is built; the defaults are pyseismic-lsr's.

        Args:
            path: The directory of the index.
            n_postings: Average number of postings of a term that are kept.
            centroid_fraction: Number of clusters of a list as a share of its postings.
            summary_energy: Share of the mass of a cluster's maxima that its summary keeps.
            threads: Number of threads to build with.
        """
        super().__init__(path)
        self.n_postings = n_postings
        self.centroid_fraction = centroid_fraction
        self.summary_energy = summary_energy
        self.threads = threads

    def retriever(
        self,
        *,
        query_cut: int = 10,
        heap_factor: float = 0.7,
        num_results: int = 1000,
        threads: int = 1,
        verbose: bool = False,
    ) -> SeismicRetriever:
        """Return a retriever of queries with ``query_toks``.

        Args:
            query_cut: Number of heaviest terms of a query whose lists are searched; all terms count in the scores. Our choice
                (measured: with ``heap_factor=0.7``, 10 kept 94 to 98 % of the exact top 1000).
            heap_factor: A cluster is skipped if its summary's score times this factor is below the lowest score of the results
                so far. A smaller factor is faster and misses more. Our choice (measured: see ``query_cut``).
            num_results: Maximum number of documents for each query.
            threads: Number of threads to search with.
            verbose: Has no effect, because Seismic shows no progress.
        """
        return SeismicRetriever(
            self, query_cut=query_cut, heap_factor=heap_factor, num_results=num_results, threads=threads, verbose=verbose
        )

    def open_in(self, directory: Path) -> Any:
        """Return the SeismicIndex or SeismicIndexLV."""
        seismic = self.package()
        (file,) = directory.glob(f"{_FILE}*.index.seismic")
        large = file.name.startswith(f"{_FILE}-lv")
        return (seismic.SeismicIndexLV if large else seismic.SeismicIndex).load(str(file))

    def _build(self, documents: Documents, directory: Path) -> None:
        warn("Seismic is approximate: exact_recall() measures what it misses")
        seismic = self.package()
        large = len(documents.terms) > _MAX_TERMS
        dataset = (seismic.SeismicDatasetLV if large else seismic.SeismicDataset)()
        for docids, numbers, impacts, offsets in _batches(documents):
            dataset.add_documents_by_id(docids, numbers, impacts, offsets)
        index = (seismic.SeismicIndexLV if large else seismic.SeismicIndex).build_from_dataset(
            dataset,
            n_postings=self.n_postings,
            centroid_fraction=self.centroid_fraction,
            summary_energy=self.summary_energy,
            num_threads=self.threads,
        )
        index.save(str(directory / (f"{_FILE}-lv" if large else _FILE)))


def _check_factor(heap_factor: Any) -> float:
    if not (isinstance(heap_factor, Real) and 0 <= float(heap_factor) < float("inf")):
        raise ValueError(f"heap_factor must be a number, finite and not negative, found {heap_factor!r:.60}")
    return float(heap_factor)


class SeismicRetriever(EngineRetriever):
    """Retrieves with Seismic."""

    #: Number of heaviest terms of a query whose lists are searched.
    query_cut = CheckedAttribute(positive("query_cut"))
    #: Factor of a cluster's summary in the decision to skip it.
    heap_factor = CheckedAttribute(_check_factor)

    def __init__(
        self,
        engine: SeismicEngine,
        *,
        query_cut: int = 10,
        heap_factor: float = 0.7,
        num_results: int = 1000,
        threads: int = 1,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`SeismicEngine.retriever` explains the arguments."""
        super().__init__(engine, num_results=num_results, threads=threads, verbose=verbose)
        self.query_cut = query_cut
        self.heap_factor = heap_factor

    def _run(self, index: Opened, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        if not queries:
            return {}
        vectors = [to_arrays(query) for query in queries.values()]
        token = self.engine.package().get_seismic_string()
        found = index.engine.batch_search(
            np.array([str(i) for i in range(len(queries))], dtype=token),
            [numbers.astype(token) for numbers, _ in vectors],
            [weights for _, weights in vectors],
            k=self.num_results,
            query_cut=self.query_cut,
            heap_factor=self.heap_factor,
            num_threads=self.threads,
        )
        # The rankings are not in the order of the queries.
        qids = list(queries)
        return {qids[int(rows[0][0])]: _hits(rows) for rows in found if rows}


def _hits(rows: list[tuple[str, float, str]]) -> Hits:
    docids = np.array([int(docid) for _, _, docid in rows], dtype=np.int64)
    return Hits(docids, np.array([score for _, score, _ in rows], dtype=np.float64))


def _batches(documents: Documents) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    numbered = enumerate(documents)
    while batch := list(islice(numbered, _BATCH)):
        vectors = [to_arrays(toks) for _, toks in batch]
        lengths = [len(numbers) for numbers, _ in vectors]
        yield (
            [str(docid) for docid, _ in batch],
            np.concatenate([numbers for numbers, _ in vectors]),
            np.concatenate([impacts for _, impacts in vectors]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )
