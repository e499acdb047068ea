"""Impacts, weights, queries and depths at the ends of their ranges: every algorithm ranks by the plain sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from inside.index import _NumpySearcher
from pyterrier_csplade import MatrixVectors
from pyterrier_csplade.index.search import POSTINGS_FILE, Budget, Hits, Postings, Searcher, algorithm, write_postings

DOCUMENTS, VOCABULARY = 2500, 60
TERMS = [f"t{i:02}" for i in range(VOCABULARY)]
#: The largest value of each type of impacts, the first value that single precision cannot hold, and the largest impact.
IMPACTS = [1, 255, 256, 65_535, 65_536, 2**24 + 1, 2**31 - 3, 2**31 - 2, 2**31 - 1]


def collection() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.choice(IMPACTS, (DOCUMENTS, VOCABULARY)) * (generator.random((DOCUMENTS, VOCABULARY)) < 0.4)


DENSE = collection()


@pytest.fixture(scope="module")
def postings(tmp_path_factory: pytest.TempPathFactory) -> Postings:
    directory = tmp_path_factory.mktemp("extremes")
    write_postings(directory, MatrixVectors([f"d{i}" for i in range(DOCUMENTS)], csr_matrix(DENSE), TERMS))
    return Postings(directory / POSTINGS_FILE)


@pytest.fixture(scope="module", params=["numpy", "exhaustive", "maxscore", "bmp"])
def searcher(request: pytest.FixtureRequest, postings: Postings) -> Searcher:
    return _NumpySearcher(postings) if request.param == "numpy" else algorithm(request.param, {}).prepare(postings)


def check(found: Hits, postings: Postings, weights: dict[str, float], k: int) -> None:
    """Compare with sums of doubles, added up in the order that ``Postings.query`` promises: by bound, then by term."""
    order = sorted(weights, key=lambda term: (-weights[term] * float(DENSE[:, TERMS.index(term)].max()), term))
    scores = np.zeros(DOCUMENTS)
    for term in order:
        scores += weights[term] * DENSE[:, TERMS.index(term)].astype(np.float64)
    assert np.isfinite(scores).all()
    best = np.argsort(-scores, kind="stable")[:k]
    best = best[scores[best] > 0]
    assert np.array_equal(found.docids, best)
    assert np.array_equal(found.scores, scores[best])


@pytest.mark.parametrize("scale", [2.0**511, 1.0, 1e-300, 2.0**-1022, 1e-310, 5e-324])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_sums_beyond_whole_numbers_of_32_and_53_bits(postings: Postings, searcher: Searcher, scale: float, k: int) -> None:
    """The smallest weights leave no bits for a margin above bounds."""
    generator = np.random.default_rng(1)
    for terms in (1, 2, 15, 40):
        columns = generator.choice(VOCABULARY, terms, replace=False)
        weights = {TERMS[c]: max(5e-324, float(w) * scale) for c, w in zip(columns, generator.choice([1.0, 0.7, 1.9], terms))}
        check(searcher(postings.query(weights), k, Budget()), postings, weights, k)


def test_equal_sums_of_the_largest_impacts(postings: Postings, searcher: Searcher) -> None:
    """Their sums are above 2**31 and 2**32, and many are equal."""
    weights = dict.fromkeys(TERMS[:6], 1.0)
    check(searcher(postings.query(weights), 500, Budget()), postings, weights, 500)


def test_every_term_of_the_vocabulary_and_thousands_of_others(postings: Postings, searcher: Searcher) -> None:
    weights = {term: 1 + i / 64 for i, term in enumerate(TERMS)}
    unknown = {f"unknown{i}": 2.0**400 for i in range(20_000)}
    check(searcher(postings.query({**unknown, **weights}), 20, Budget()), postings, weights, 20)


@pytest.mark.parametrize("k", [DOCUMENTS, 2**31, 2**62])
def test_more_results_than_documents(postings: Postings, searcher: Searcher, k: int) -> None:
    weights = {"t03": 1.0, "t09": 2.5}
    check(searcher(postings.query(weights), k, Budget()), postings, weights, DOCUMENTS)


def test_one_document_and_one_posting(tmp_path: Path) -> None:
    write_postings(tmp_path, MatrixVectors(["d"], csr_matrix(np.array([[2**31 - 1]])), ["t"]))
    postings = Postings(tmp_path / POSTINGS_FILE)
    for name in ("exhaustive", "maxscore", "bmp"):
        found = algorithm(name, {}).prepare(postings)(postings.query({"t": 2.0**512}), 10, Budget())
        assert found.docids.tolist() == [0] and found.scores.tolist() == [2.0**512 * (2**31 - 1)]
