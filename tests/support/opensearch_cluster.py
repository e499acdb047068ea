"""Real OpenSearch servers, and the collection with which they are tested."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from inside.engines import Backoff
from pyterrier_csplade import Contract, MatrixVectors, OpenSearchIndex
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "examples" / "opensearch"))
start: Any = importlib.import_module("start")

CONTRACT = Contract(weights="w", base_model="lm-one")
SIZE = 128_256  # terms, as Llama 3 has
DOCUMENTS = 3000
VOCABULARY = [f"Ġ{i}.{i % 7}%" for i in range(SIZE)]


@contextmanager
def running(directory: Path, nodes: int) -> Iterator[Any]:
    """Run a cluster during the tests; skip them if no server can be started."""
    try:
        cluster = start.Cluster(directory, nodes=nodes)
        cluster.start()
    except start.Unavailable as error:
        pytest.skip(f"no OpenSearch server here: {error}")
    try:
        yield cluster
    finally:
        cluster.stop()


@cache
def collection(documents: int = DOCUMENTS, terms: int = 120, seed: int = 7) -> MatrixVectors:
    """Make documents with Zipf-distributed terms and impacts from 1 to 512."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(SIZE)
    indptr, indices = [0], []
    for _ in range(documents):
        row = np.unique(shuffled[_zipf(generator, 2 * terms)])
        row = generator.permutation(row)[:terms]
        indices.append(row)
        indptr.append(indptr[-1] + len(row))
    columns = np.concatenate(indices)
    impacts = np.clip(np.round(100 * np.log1p(generator.gamma(1.2, 1.5, len(columns)))), 1, 512).astype(np.int32)
    matrix = csr_matrix((impacts, columns, indptr), shape=(documents, SIZE))
    return MatrixVectors([f"doc-{i:05d}" for i in generator.permutation(documents)], matrix, VOCABULARY, CONTRACT)


@cache
def queries(number: int = 100, terms: int = 40, seed: int = 8) -> list[dict[str, float]]:
    """Make queries of the same terms with float32 weights."""
    generator = np.random.default_rng(seed)
    shuffled = np.random.default_rng(7).permutation(SIZE)
    found = []
    for _ in range(number):
        columns = np.unique(shuffled[_zipf(generator, terms)])
        weights = generator.gamma(1.2, 1.0, len(columns)).astype(np.float32)
        found.append({VOCABULARY[column]: float(weight) for column, weight in zip(columns.tolist(), weights)})
    return found


def load_and_kill(
    cluster: Any, index: OpenSearchIndex, vectors: MatrixVectors, moment: int, *, restart: bool
) -> list[BaseException]:
    """Kill the server after ``moment`` documents were read; restart it at once, or after the load has failed."""
    reached, failures = threading.Event(), []

    class Watched(MatrixVectors):
        def blocks(self) -> Iterator[Any]:
            for start in range(0, len(self), 100):
                if start >= moment:
                    reached.set()
                yield self.docnos[start : start + 100], self.matrix[start : start + 100]

    def load() -> None:
        try:
            index.index_vectors(
                Watched(vectors.docnos, vectors.matrix, VOCABULARY, CONTRACT), shards=2, replicas=0, request_bytes=100_000
            )
        except BaseException as error:
            failures.append(error)

    with pytest.MonkeyPatch.context() as patch:
        if not restart:
            patch.setattr(Backoff.__init__, "__defaults__", (0.1, 0.5, 1.0))
        thread = threading.Thread(target=load)
        thread.start()
        assert reached.wait(60)
        cluster.kill()
        if not restart:
            thread.join(60)
        cluster.start()
        thread.join(120)
        assert not thread.is_alive()
    return failures


def frame(vectors: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(vectors))], "query_toks": pd.Series(vectors, dtype=object)})


def assert_exact(result: pd.DataFrame, vectors: MatrixVectors, wanted: list[dict[str, float]], k: int) -> None:
    """Compare with the product of the matrices: scores agree to 1e-6, and only documents with such scores may swap ranks."""
    columns = {term: column for column, term in enumerate(vectors.vocabulary)}
    by_qid = dict(tuple(result.groupby("qid")))
    docnos = np.array(vectors.docnos)
    for i, query in enumerate(wanted):
        weights = np.zeros(len(columns))
        for term, weight in query.items():
            weights[columns[term]] = weight
        scores = vectors.matrix @ weights
        order = np.lexsort((docnos, -scores))
        order = order[scores[order] > 0][:k]
        rows = by_qid[f"q{i}"]
        assert len(rows) == len(order) and rows["docno"].is_unique and rows["rank"].tolist() == list(range(len(order)))
        assert rows["score"].to_numpy() == pytest.approx(scores[order], rel=1e-6)
        of_docno = dict(zip(docnos.tolist(), scores.tolist()))
        assert [of_docno[docno] for docno in rows["docno"]] == pytest.approx(scores[order].tolist(), rel=1e-6)


def _zipf(generator: np.random.Generator, number: int) -> np.ndarray:
    return np.minimum(np.searchsorted(_CUMULATED, generator.random(number)), SIZE - 1)


_CUMULATED = np.cumsum(1.0 / (np.arange(SIZE) + 51.0))
_CUMULATED /= _CUMULATED[-1]
