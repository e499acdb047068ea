"""Bounds are rounded sums, too: no document may be lost if a bound falls below a score that it bounds."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade import MatrixVectors
from pyterrier_csplade.index.search import POSTINGS_FILE, Budget, Postings, algorithm, write_postings


def postings_of(directory: Path, matrix: np.ndarray, terms: list[str]) -> Postings:
    write_postings(directory, MatrixVectors([f"d{i}" for i in range(len(matrix))], csr_matrix(matrix), terms))
    return Postings(directory / POSTINGS_FILE)


def test_blocks_whose_bounds_round_down(tmp_path: Path) -> None:
    """0.7 is smaller in single than in double precision, so each block's bound is below its document's score."""
    documents, number = 3000, 200
    generator = np.random.default_rng(0)
    matrix = np.zeros((documents, number + 1), np.int64)
    for row in matrix:
        row[generator.choice(number, 20, replace=False)] = 200
    matrix[5, number] = 1  # the heaviest term, which scales the weights for the bounds
    terms = [f"t{i:03}" for i in range(number)] + ["heavy"]
    weights = np.append(0.7 + np.arange(number) * 2.0**-45, 1.0)
    assert (np.float32(weights[:number]).astype(np.float64) < weights[:number]).all()
    scores = matrix @ weights
    best = np.argsort(-scores, kind="stable")
    assert (scores[best[:11]] - scores[best[1:12]] > 1e-12).all()  # far more than sums of doubles are off
    postings = postings_of(tmp_path, matrix, terms)
    searcher = algorithm("bmp", {"block_size": 1}).prepare(postings)
    for k in (1, 10):
        found = searcher(postings.query(dict(zip(terms, weights.tolist()))), k, Budget())
        assert found.docids.tolist() == best[:k].tolist()


def test_a_document_whose_score_rounds_above_the_bounds_of_its_lists(tmp_path: Path) -> None:
    """MaxScore adds up bounds from the smallest, and scores from the largest."""
    tenths = [i / 10 for i in range(1, 30)]
    a, b, c = next(w for w in itertools.combinations(tenths[::-1], 3) if (w[0] + w[1]) + w[2] > w[0] + (w[1] + w[2]))
    matrix = np.zeros((9000, 4), np.int64)
    matrix[0, 0] = 1  # as heavy as the bound of the others
    matrix[8999, 1:] = 1  # in a later window
    postings = postings_of(tmp_path, matrix, ["w", "x", "y", "z"])
    query = {"w": a + (b + c), "x": a, "y": b, "z": c}
    for name in ("exhaustive", "maxscore", "bmp"):
        found = algorithm(name, {}).prepare(postings)(postings.query(query), 1, Budget())
        assert (found.docids.tolist(), found.scores.tolist()) == ([8999], [(a + b) + c]), name
