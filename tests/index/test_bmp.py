"""Block-max pruning: exactness, the effect of its options, and the order of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from inside.index import BLOCKS_OF_GROUP, kernels
from inside.index import available as _fast
from inside.index import bmp as _bmp
from inside.index import order as _order
from pyterrier_csplade import CspladeError, DataError, MatrixVectors
from pyterrier_csplade.index.search import (
    POSTINGS_FILE,
    Budget,
    Postings,
    Searcher,
    algorithm,
    bisect,
    given_order,
    open_blocks,
    read_order,
    write_order,
    write_postings,
)

DOCUMENTS, VOCABULARY, SUBJECTS = 6000, 400, 40
TERMS = [f"Ġ{i}" for i in range(VOCABULARY)]


def subjects() -> np.ndarray:
    return np.random.default_rng(1).integers(0, SUBJECTS, DOCUMENTS)


def collection() -> csr_matrix:
    """Documents about subjects, in random order; each subject has ten terms of its own, of heavy and often equal impacts."""
    generator = np.random.default_rng(2)
    mask = generator.random((DOCUMENTS, VOCABULARY)) < 0.03
    impacts = mask * generator.integers(1, 600, mask.shape)
    for document, subject in enumerate(subjects().tolist()):
        own = generator.choice(10, 7, replace=False) + 10 * subject
        impacts[document, own] = 100 * generator.integers(1, 8, 7)
    return csr_matrix(impacts)


MATRIX = collection()
DENSE = MATRIX.toarray().astype(np.float64)


@pytest.fixture(scope="module")
def postings(tmp_path_factory: pytest.TempPathFactory) -> Postings:
    directory = tmp_path_factory.mktemp("bmp")
    write_postings(directory, MatrixVectors([f"d{i}" for i in range(DOCUMENTS)], MATRIX, TERMS))
    postings = Postings(directory / POSTINGS_FILE)
    write_order(postings, bisect(postings))
    return postings


def queries(count: int = 25) -> list[dict[str, float]]:
    """Queries about a subject, with other terms; weights are multiples of 1/8, so that sums are exact in any order."""
    generator = np.random.default_rng(3)
    found = []
    for _ in range(count):
        subject = generator.integers(SUBJECTS)
        columns = {*(10 * subject + generator.choice(10, 5)).tolist(), *generator.choice(VOCABULARY, 12).tolist()}
        found.append({TERMS[c]: float(generator.integers(1, 24)) / 8 for c in columns})
    return found


def brute_force(query: dict[str, float], k: int) -> tuple[list[int], list[float]]:
    columns = [TERMS.index(term) for term in query]
    scores = DENSE[:, columns] @ np.array(list(query.values()))
    order = np.argsort(-scores, kind="stable")[:k]
    return order[scores[order] > 0].tolist(), scores[order][scores[order] > 0].tolist()


def search(searcher: Searcher, postings: Postings, query: dict[str, float], k: int) -> tuple[list[int], list[float]]:
    hits = searcher(postings.query(query), k, Budget())
    return hits.docids.tolist(), hits.scores.tolist()


@pytest.mark.parametrize("k", [1, 10, 300, DOCUMENTS + 1])
@pytest.mark.parametrize("block_size", [1, 7, 64, 256])
@pytest.mark.parametrize("reordered", [False, True])
def test_safe_settings_return_the_exact_ranking(postings: Postings, block_size: int, reordered: bool, k: int) -> None:
    searcher = algorithm("bmp", {"block_size": block_size, "reordered": reordered}).prepare(postings)
    for query in queries():
        assert search(searcher, postings, query, k) == brute_force(query, k)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(TERMS), st.floats(2**-60, 2.0**60), min_size=1, max_size=30), st.integers(1, 400))
def test_any_query_ranks_as_exhaustive_search(postings: Postings, query: dict[str, float], k: int) -> None:
    exhaustive = algorithm("exhaustive", {}).prepare(postings)
    for reordered in (False, True):
        searcher = algorithm("bmp", {"block_size": 16, "reordered": reordered}).prepare(postings)
        assert search(searcher, postings, query, k) == search(exhaustive, postings, query, k)


@pytest.mark.parametrize("jump", [1, 3, 10**6])
@pytest.mark.parametrize("window", [32, 320, 2**14])
def test_blocks_alone_and_with_the_gaps_between_them_score_alike(
    postings: Postings, jump: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kernel_bmp = kernels("bmp", "this test")
    monkeypatch.setattr(_kernel_bmp, "WINDOW", window)
    # The loops run in Python, because constants are compiled into compiled loops.
    monkeypatch.setattr(_kernel_bmp, "JUMP", jump)
    monkeypatch.setattr(_kernel_bmp, "_SHORT", window)
    for name in ("search_blocks", "_score"):
        monkeypatch.setattr(_kernel_bmp, name, getattr(_kernel_bmp, name).py_func)
    searcher = algorithm("bmp", {"block_size": 32}).prepare(postings)
    for query in queries(2):
        assert search(searcher, postings, query, 20) == brute_force(query, 20)


@pytest.mark.parametrize("block_size", [4, 32])
@pytest.mark.parametrize("reordered", [False, True])
def test_maxima_and_offsets_hold(postings: Postings, block_size: int, reordered: bool) -> None:
    sides = open_blocks(postings, block_size, reordered=reordered)
    places = np.argsort(sides.order) if reordered else np.arange(DOCUMENTS)
    kinds = set()
    for term in range(0, len(postings.terms), 7):
        docids, impacts = postings.list_of(term)
        largest = np.zeros(-(-DOCUMENTS // block_size), int)
        np.maximum.at(largest, places[docids] // block_size, impacts.astype(int))
        step = int(sides.steps[term])
        stored = sides.maxima[sides.starts[term] : sides.starts[term + 1]].astype(int) * step
        numbers = sides.blocks[sides.block_starts[term] : sides.block_starts[term + 1]]
        offsets = sides.offsets[sides.offset_starts[term] : sides.offset_starts[term + 1]]
        kinds.add(len(numbers) > 0)
        if len(numbers):
            assert numbers.tolist() == np.flatnonzero(largest).tolist() and len(offsets) == 0
            largest = largest[numbers]
        else:
            firsts = np.arange(0, DOCUMENTS, block_size * BLOCKS_OF_GROUP)
            assert offsets.tolist() == np.searchsorted(np.sort(places[docids]), firsts).tolist()
        assert (stored >= largest).all() and (stored < largest + step).all() and ((stored == 0) == (largest == 0)).all()
        for depth, kth in zip((10, 100), sides.kth_impacts):
            assert kth[term] == (np.sort(impacts)[-depth] if len(impacts) >= depth else 0)
    assert True in kinds if block_size == 4 else False in kinds


def test_smaller_alpha_scores_less_and_keeps_most(postings: Postings) -> None:
    kept, costs = [], []
    for alpha in (1.0, 0.7, 0.4):
        searcher = algorithm("bmp", {"block_size": 8, "alpha": alpha}).prepare(postings)
        found = [search(searcher, postings, query, 10) for query in queries()]
        kept.append(
            np.mean([len({*docids} & {*brute_force(query, 10)[0]}) / 10 for query, (docids, _) in zip(queries(), found)])
        )
        # Every result has its exact score.
        for query, (docids, scores) in zip(queries(), found):
            assert scores == [float(DENSE[d, [TERMS.index(t) for t in query]] @ [*query.values()]) for d in docids]
        costs.append(sum(_postings_until_done(searcher, postings, query) for query in queries()))
    assert kept[0] == 1 and kept[0] >= kept[1] >= kept[2] > 0
    assert costs[0] > costs[1] > costs[2]


def _postings_until_done(searcher: Searcher, postings: Postings, query: dict[str, float]) -> int:
    """The smallest power of two that does not cut the search as a budget."""
    return next(2**i for i in range(8, 30) if not searcher(postings.query(query), 10, Budget(postings=2**i)).cut)


def test_beta_keeps_the_heaviest_terms(postings: Postings) -> None:
    query = {"Ġ0": 3.0, "Ġ1": 0.5, "Ġ2": 2.0, "Ġ3": 0.25}
    half = algorithm("bmp", {"beta": 0.5}).prepare(postings)
    assert search(half, postings, query, 50) == brute_force({"Ġ0": 3.0, "Ġ2": 2.0}, 50)
    most = algorithm("bmp", {"beta": 0.51}).prepare(postings)
    assert search(most, postings, query, 50) == brute_force({"Ġ0": 3.0, "Ġ2": 2.0, "Ġ1": 0.5}, 50)


def test_a_budget_keeps_the_most_promising_blocks(postings: Postings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bmp, "_STEP", 8)
    searcher = algorithm("bmp", {"block_size": 8}).prepare(postings)
    for query in queries(5):
        found = [searcher(postings.query(query), 10, Budget(postings=number)) for number in (300, 1500, 10**9)]
        assert [hits.cut for hits in found] == [True, True, False]
        totals = [hits.scores.sum() for hits in found]
        assert 0 < totals[0] <= totals[1] <= totals[2]
        assert (found[2].docids.tolist(), found[2].scores.tolist()) == brute_force(query, 10)
        columns = [TERMS.index(term) for term in query]
        assert found[0].scores.tolist() == (DENSE[found[0].docids][:, columns] @ [*query.values()]).tolist()


@pytest.mark.parametrize(
    "option",
    [{"block_size": 0}, {"block_size": 257}, {"block_size": "4"}, {"alpha": 0}, {"alpha": 1.1}, {"alpha": "1"}, {"beta": 0}],
)
def test_options_outside_their_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        algorithm("bmp", option)


def test_bisection_puts_documents_of_a_subject_side_by_side(postings: Postings) -> None:
    order = read_order(postings)
    assert order is not None and np.array_equal(np.sort(order), np.arange(DOCUMENTS))
    subject = subjects()
    assert np.mean(np.diff(subject) == 0) < 0.05
    assert np.mean(np.diff(subject[order]) == 0) > 0.5
    before, after = (np.count_nonzero(open_blocks(postings, 32, reordered=r).maxima) for r in (False, True))
    assert after < 0.8 * before


@pytest.mark.parametrize("documents", [1, 2, 15, 17, 33])
def test_small_collections(tmp_path: Path, documents: int) -> None:
    write_postings(tmp_path, MatrixVectors([f"d{i}" for i in range(documents)], MATRIX[:documents], TERMS))
    postings = Postings(tmp_path / POSTINGS_FILE)
    assert sorted(bisect(postings).tolist()) == list(range(documents))
    searcher = algorithm("bmp", {"block_size": 4}).prepare(postings)
    exhaustive = algorithm("exhaustive", {}).prepare(postings)
    for query in queries(3):
        assert search(searcher, postings, query, 10) == search(exhaustive, postings, query, 10)


def test_given_orders(postings: Postings) -> None:
    docnos = [f"d{i}" for i in np.argsort(subjects(), kind="stable")]
    assert given_order(postings, docnos).tolist() == np.argsort(subjects(), kind="stable").tolist()
    with pytest.raises(DataError, match="lacks 1 documents.*'d0'"):
        given_order(postings, [f"d{i}" for i in range(1, DOCUMENTS)])
    for wrong in ("d5", "d6000"):
        with pytest.raises(DataError, match=f"{wrong!r} twice"):
            given_order(postings, [*docnos, wrong])


def test_without_numba(postings: Postings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fast, "has_numba", lambda: False)
    with pytest.raises(CspladeError, match=r"block-max pruning needs numba.*\[fast\]"):
        algorithm("bmp", {}).prepare(postings)
    with pytest.raises(CspladeError, match="reordering needs numba"):
        _order.bisect(postings)
