"""Small collections of any shape: postings equal their matrix, and every algorithm ranks like numpy, ties included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from inside.index import _NumpySearcher
from pyterrier_csplade import DataError, MatrixVectors
from pyterrier_csplade.index.search import POSTINGS_FILE, Budget, Postings, Searcher, algorithm, write_order, write_postings

LARGEST = 2**31 - 1


class Blocks:
    """Encoded documents in several matrices."""

    contract = None

    def __init__(self, docnos: Sequence[str], matrix: csr_matrix, vocabulary: Sequence[str], cuts: list[int]) -> None:
        self.docnos, self.matrix, self.vocabulary = docnos, matrix, vocabulary
        self.cuts = [0, *sorted(cuts), len(docnos)]

    def __len__(self) -> int:
        return len(self.docnos)

    def blocks(self) -> Iterator[Any]:
        for start, end in zip(self.cuts, self.cuts[1:]):
            yield self.docnos[start:end], self.matrix[start:end]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_postings_give_back_any_matrix(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7))
    largest = data.draw(st.sampled_from([1, 255, 256, 65_535, 65_536, LARGEST]))
    values = st.one_of(st.just(0), st.sampled_from([1, 2, largest]))
    dense = np.array(data.draw(st.lists(values, min_size=rows * columns, max_size=rows * columns)), np.int64)
    dense = dense.reshape(rows, columns)
    docnos = data.draw(st.lists(NAMES.filter(str.strip), min_size=rows, max_size=rows, unique=True))
    terms = data.draw(st.lists(NAMES, min_size=columns, max_size=columns, unique=True))
    cuts = data.draw(st.lists(st.integers(0, rows), max_size=3))
    directory = tmp_path_factory.mktemp("postings")
    write_postings(directory, Blocks(docnos, csr_matrix(dense), terms, cuts))
    for memory in (False, True):
        postings = Postings(directory / POSTINGS_FILE, memory=memory)
        # Terms are sorted by code points and all have postings; documents keep their order, the empty ones too.
        used = sorted((term, column) for column, term in enumerate(terms) if dense[:, column].any())
        assert list(postings.terms) == [term for term, _ in used] and list(postings.docnos) == docnos
        for number, (term, column) in enumerate(used):
            docids, impacts = postings.list_of(number)
            assert docids.tolist() == np.flatnonzero(dense[:, column]).tolist()
            assert impacts.tolist() == dense[docids, column].tolist() and postings.max_impacts[number] == impacts.max()
            assert postings.number(term) == number
        postings.check(np.arange(len(used)))
        postings.file.verify()
        assert postings.number("".join(terms) + "x") is None


@pytest.mark.parametrize(("impact", "largest"), [(2**31, None), (LARGEST, LARGEST)])
def test_the_largest_impact(tmp_path_factory: pytest.TempPathFactory, impact: int, largest: int | None) -> None:
    directory, vectors = tmp_path_factory.mktemp("largest"), MatrixVectors(["d"], csr_matrix([[impact]]), ["a"])
    if largest is None:
        with pytest.raises(DataError, match="'d'"):
            write_postings(directory, vectors)
    else:
        write_postings(directory, vectors)
        assert Postings(directory / POSTINGS_FILE).max_impacts.tolist() == [largest]


def collection(generator: np.random.Generator) -> np.ndarray:
    """Matrices of few or many different impacts; dense, sparse, or with terms in one range of documents; some rows empty."""
    documents, terms = int(generator.choice([1, 2, 31, 32, 33, 64, 100, 300])), int(generator.integers(1, 9))
    impacts = generator.integers(1, generator.choice([2, 4, 300, 70_000]), (documents, terms))
    mask = generator.random((documents, terms)) < generator.choice([0.02, 0.3, 0.9, 1.0], terms)
    if generator.random() < 0.3:
        mask &= np.arange(documents)[:, None] >= generator.integers(0, documents, terms)
    mask[generator.random(documents) < 0.2] = False
    mask[generator.integers(documents)] = True
    return impacts * mask


def query(generator: np.random.Generator, terms: int) -> dict[str, float]:
    """Weights are multiples of 1/8, so that sums are exact in any order; some terms are in no document."""
    columns = generator.choice(terms + 2, generator.integers(1, terms + 3), replace=False)
    weights = generator.integers(1, generator.choice([2, 5, 800]), len(columns)) / 8
    return {f"t{column}": float(weight) for column, weight in zip(columns, weights)} | {"t0": 1.0}


def searchers(postings: Postings, generator: np.random.Generator) -> dict[str, Searcher]:
    write_order(postings, generator.permutation(len(postings)).astype(np.int32))
    found: dict[str, Searcher] = {"numpy": _NumpySearcher(postings)}
    found |= {name: algorithm(name, {}).prepare(postings) for name in ("exhaustive", "maxscore")}
    for reordered in (False, True):
        size = int(generator.choice([1, 2, 3, 16, 64, 256]))
        bmp = algorithm("bmp", {"block_size": size, "reordered": reordered})
        found[f"bmp of {size}, {reordered}"] = bmp.prepare(postings)
    return found


def ranking(dense: np.ndarray, weights: dict[str, float], k: int) -> tuple[list[int], list[float]]:
    scores = dense @ np.array([weights.get(f"t{column}", 0.0) for column in range(dense.shape[1])])
    order = np.lexsort((np.arange(len(dense)), -scores))[:k]
    return order[scores[order] > 0].tolist(), scores[order][scores[order] > 0].tolist()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threads=st.integers(1, 4))
def test_every_algorithm_ranks_as_numpy_does(tmp_path_factory: pytest.TempPathFactory, seed: int, threads: int) -> None:
    pytest.importorskip("numba")
    generator = np.random.default_rng(seed)
    dense, directory = collection(generator), tmp_path_factory.mktemp("small")
    terms = [f"t{column}" for column in range(dense.shape[1])]
    write_postings(directory, MatrixVectors([f"d{i}" for i in range(len(dense))], csr_matrix(dense), terms))
    postings = Postings(directory / POSTINGS_FILE)
    queries = [query(generator, dense.shape[1]) for _ in range(6)]
    depths = [int(generator.choice([1, 2, 10, len(dense), len(dense) + 1, 1000])) for _ in queries]
    expected = [ranking(dense, weights, k) for weights, k in zip(queries, depths)]
    translated = [postings.query(weights) for weights in queries]
    with ThreadPoolExecutor(threads) as executor:
        for name, searcher in searchers(postings, generator).items():
            hits = executor.map(searcher, translated, depths, repeat(Budget()))
            assert [(hit.docids.tolist(), hit.scores.tolist()) for hit in hits] == expected, name


def test_the_reference_knows_ties() -> None:
    dense = np.array([[1, 0], [0, 2], [2, 0], [0, 0]])
    assert ranking(dense, {"t0": 1.0, "t1": 1.0, "t9": 5.0}, 2) == ([1, 2], [2.0, 2.0])
