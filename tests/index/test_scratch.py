"""Searches reuse working memory, but nothing is carried over between queries or threads."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import ImpactIndex, MatrixVectors
from pyterrier_csplade.index.search import POSTINGS_FILE, Budget, Postings, Searcher, algorithm, write_postings

DOCUMENTS, VOCABULARY = 30_000, 12
TERMS = [f"t{i}" for i in range(VOCABULARY)]
# More documents than a window of MaxScore and than blocks scored together; many equal scores.
DENSE = np.random.default_rng(2).integers(0, 9, (DOCUMENTS, VOCABULARY)) * (
    np.random.default_rng(3).random((DOCUMENTS, VOCABULARY)) < np.linspace(0.02, 0.9, VOCABULARY)
)
NAMES = ["exhaustive", "maxscore", "bmp"]


@pytest.fixture(scope="module")
def postings(tmp_path_factory: pytest.TempPathFactory) -> Postings:
    directory = tmp_path_factory.mktemp("scratch")
    write_postings(directory, MatrixVectors([f"d{i}" for i in range(DOCUMENTS)], csr_matrix(DENSE), TERMS))
    return Postings(directory / POSTINGS_FILE)


@pytest.fixture(params=NAMES)
def searcher(request: pytest.FixtureRequest, postings: Postings) -> Searcher:
    return algorithm(request.param, {}).prepare(postings)


def queries(seed: int) -> Iterator[tuple[dict[str, float], int]]:
    """Queries of few and many terms, and depths of all sizes; weights are multiples of 1/4, so that sums are exact."""
    generator = np.random.default_rng(seed)
    for k in (1000, 3, 20_000, 1, 500, DOCUMENTS, 10):
        columns = generator.choice(VOCABULARY, generator.integers(1, VOCABULARY), replace=False)
        yield {TERMS[c]: float(generator.integers(1, 12)) / 4 for c in columns}, k


def brute_force(query: dict[str, float], k: int) -> tuple[list[int], list[float]]:
    scores = DENSE[:, [TERMS.index(t) for t in query]] @ np.array(list(query.values()))
    best = np.argsort(-scores, kind="stable")[:k]
    best = best[scores[best] > 0]
    return best.tolist(), scores[best].tolist()


def check(postings: Postings, searcher: Searcher, seed: int) -> None:
    for query, k in queries(seed):
        found = searcher(postings.query(query), k, Budget())
        assert (found.docids.tolist(), found.scores.tolist()) == brute_force(query, k)


def test_searches_of_several_depths_in_turns(postings: Postings, searcher: Searcher) -> None:
    for seed in range(5):
        check(postings, searcher, seed)


def test_threads_that_share_a_searcher(postings: Postings, searcher: Searcher) -> None:
    with ThreadPoolExecutor(3) as executor:
        list(executor.map(lambda seed: check(postings, searcher, seed), range(12)))


def test_searchers_in_turns_and_in_threads_over_the_same_postings(postings: Postings) -> None:
    searchers = [algorithm(name, {}).prepare(postings) for name in [*NAMES, *NAMES]]
    for (query, k), searcher in zip(queries(1), searchers):
        first = searcher(postings.query(query), k, Budget())
        assert (first.docids.tolist(), first.scores.tolist()) == brute_force(query, k)
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda searcher: check(postings, searcher, 7), searchers))


def test_hits_do_not_change_with_the_next_search(postings: Postings, searcher: Searcher) -> None:
    found = searcher(postings.query({"t3": 1.0, "t8": 0.5}), 100, Budget())
    copy = pickle.loads(pickle.dumps(found))
    searcher(postings.query({"t4": 3.0, "t8": 0.25}), 100, Budget())
    assert np.array_equal(found.docids, copy.docids) and np.array_equal(found.scores, copy.scores)


@pytest.mark.parametrize("name", NAMES)
def test_retrievers_with_threads_over_one_index(tmp_path: Path, name: str) -> None:
    rows = ({"docno": f"d{i}", "toks": {t: int(v) for t, v in zip(TERMS, row) if v}} for i, row in enumerate(DENSE[:1000]))
    index = ImpactIndex(tmp_path / "index").index(rows)
    found = [query for seed in range(8) for query, _ in queries(seed)]
    frame = pd.DataFrame({"qid": [str(i) for i in range(len(found))], "query_toks": found})
    alone = index.retriever(algorithm=name, num_results=20).transform(frame)
    retrievers = [index.retriever(algorithm=name, num_results=20, threads=2) for _ in range(2)]
    with ThreadPoolExecutor(2) as executor:
        for result in executor.map(lambda retriever: retriever.transform(frame), [*retrievers, *retrievers]):
            pd.testing.assert_frame_equal(result, alone)
