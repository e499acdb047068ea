"""Exhaustive search skips low scores early; these collections make this hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import MatrixVectors
from pyterrier_csplade.index.search import POSTINGS_FILE, Budget, Hits, Postings, Searcher, algorithm, write_postings

QUERY = {"a": 1.0, "b": 0.5}


def searcher_of(directory: Path, matrix: np.ndarray) -> tuple[Postings, Searcher]:
    write_postings(directory, MatrixVectors([f"d{i}" for i in range(len(matrix))], csr_matrix(matrix), ["a", "b"]))
    postings = Postings(directory / POSTINGS_FILE)
    return postings, algorithm("exhaustive", {}).prepare(postings)


def check(found: Hits, matrix: np.ndarray, k: int) -> None:
    scores = matrix @ np.array([QUERY["a"], QUERY["b"]])
    best = np.lexsort((np.arange(len(scores)), -scores))[:k]
    best = best[scores[best] > 0]
    assert np.array_equal(found.docids, best)
    assert np.array_equal(found.scores, scores[best])


@pytest.mark.parametrize("k", [1, 10, 1000, 30_000])
@pytest.mark.parametrize("documents", [700, 20_000, 140_000])
@pytest.mark.parametrize("step", [1, 7, 16, 32, 64, 2048, 4096])
def test_heavy_documents_in_steps(tmp_path: Path, documents: int, k: int, step: int) -> None:
    """Scores are compared in groups of distant documents: all heavy ones may be in one group, or one in each."""
    matrix = np.ones((documents, 2), np.int64)
    matrix[::step] = 90, 7
    matrix[0] = 95, 7
    postings, search = searcher_of(tmp_path, matrix)
    check(search(postings.query(QUERY), k, Budget()), matrix, k)


@pytest.mark.parametrize("k", [10, 1000])
def test_the_first_window_is_unlike_the_others(tmp_path: Path, k: int) -> None:
    """The first threshold comes from the first 65,536 documents: all better than the rest, all worse, or without a score."""
    draw = np.random.default_rng(1)
    for name, (first, rest) in enumerate([(900, 5), (5, 900), (0, 900), (900, 0)]):
        matrix = draw.integers(0, 6, (150_000, 2)) + np.where(np.arange(150_000) < 65_536, first, rest)[:, None]
        (tmp_path / str(name)).mkdir()
        postings, search = searcher_of(tmp_path / str(name), matrix)
        check(search(postings.query(QUERY), k, Budget()), matrix, k)
