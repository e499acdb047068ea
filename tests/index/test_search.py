"""Searching arrays of postings: every algorithm compared with the product of the same matrices, and their options."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from inside.index import _NumpySearcher, kernels
from inside.index import available as _fast
from inside.index import exhaustive as _exhaustive
from pyterrier_csplade import CspladeError, ImpactIndex, MatrixVectors
from pyterrier_csplade.index.search import POSTINGS_FILE, Budget, Hits, Postings, Searcher, algorithm, write_postings

DOCUMENTS, VOCABULARY = 18_000, 300
TERMS = [f"Ġ{i}" for i in range(VOCABULARY)]
EXACT = ["numpy", "exhaustive", "maxscore", "bmp"]


def collection() -> csr_matrix:
    """Terms with Zipfian frequencies, documents about topics; few different impacts, so that scores are often equal."""
    generator = np.random.default_rng(5)
    popularity = 1 / np.arange(1, VOCABULARY + 1)
    rows = []
    for start in range(0, DOCUMENTS, 2000):
        topic = np.roll(popularity, start // 2000 * 7)
        mask = generator.random((2000, VOCABULARY)) < np.minimum(0.6, 0.5 * popularity + topic)
        rows.append(csr_matrix(mask * generator.integers(1, 9, mask.shape) * 50))
    rows[3][:, :] = 0
    return csr_matrix(np.vstack([row.toarray() for row in rows]))


MATRIX = collection()
DENSE = np.asfortranarray(MATRIX.toarray(), dtype=np.float64)


@pytest.fixture(scope="module")
def postings(tmp_path_factory: pytest.TempPathFactory) -> Postings:
    directory = tmp_path_factory.mktemp("search")
    write_postings(directory, MatrixVectors([f"d{i}" for i in range(DOCUMENTS)], MATRIX, TERMS))
    return Postings(directory / POSTINGS_FILE)


@pytest.fixture(scope="module", params=EXACT)
def searcher(request: pytest.FixtureRequest, postings: Postings) -> Searcher:
    return _NumpySearcher(postings) if request.param == "numpy" else algorithm(request.param, {}).prepare(postings)


def random_queries(count: int, *, step: float | None) -> list[dict[str, float]]:
    """Queries of 1 to 40 terms; with a step, weights are its multiples, so that sums are exact in any order."""
    generator = np.random.default_rng(11)
    queries = []
    for _ in range(count):
        columns = generator.choice(VOCABULARY, generator.integers(1, 41), replace=False)
        weights = generator.exponential(size=len(columns)) + 0.01
        if step:
            weights = np.maximum(step, np.round(weights / step) * step)
        queries.append({TERMS[c]: float(np.float32(w)) for c, w in zip(columns, weights)})
    return queries


def brute_force(query: dict[str, float], k: int) -> tuple[np.ndarray, np.ndarray]:
    columns = [TERMS.index(term) for term in query if term in TERMS]
    scores = DENSE[:, columns] @ np.array([query[TERMS[c]] for c in columns])
    order = np.argsort(-scores, kind="stable")[:k]
    order = order[scores[order] > 0]
    return order, scores[order]


def search(postings: Postings, searcher: Searcher, query: dict[str, float], k: int, budget: Budget = Budget()) -> Hits:  # noqa: B008
    translated = postings.query(query)
    postings.check(translated.terms)
    return searcher(translated, k, budget)


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_order_and_scores_are_those_of_brute_force_with_many_ties(postings: Postings, searcher: Searcher, k: int) -> None:
    ties = 0
    for query in random_queries(100, step=0.25):
        found = search(postings, searcher, query, k)
        docids, scores = brute_force(query, k)
        assert np.array_equal(found.docids, docids) and np.array_equal(found.scores, scores)
        ties += len(scores) - len(set(scores))
    assert ties > 100 or k == 1


@pytest.mark.parametrize("k", [1, 10, 1000, DOCUMENTS + 1])
def test_any_weights(postings: Postings, searcher: Searcher, k: int) -> None:
    """Sums are rounded: documents whose scores differ by less than the rounding may come in either order."""
    for query in random_queries(30 if k <= 1000 else 3, step=None):
        found = search(postings, searcher, query, k)
        _, scores = brute_force(query, k)
        assert found.scores == pytest.approx(scores, rel=1e-14)
        columns = [TERMS.index(term) for term in query]
        own = DENSE[np.ix_(found.docids, np.array(columns))] @ list(query.values())
        assert found.scores == pytest.approx(own, rel=1e-14)
        assert len(set(found.docids.tolist())) == len(found.docids)


def test_all_algorithms_round_alike(postings: Postings) -> None:
    numpy = _NumpySearcher(postings)
    for name in EXACT[1:]:
        other = algorithm(name, {}).prepare(postings)
        for i, query in enumerate(random_queries(80, step=None)):
            scale = [1.0, 1e-300, 2.0**500, 1e-7][i % 4]
            query = {term: weight * scale for term, weight in query.items()} | {"Ġ0": 1e-9 * scale}
            one, two = (search(postings, s, query, 100) for s in (numpy, other))
            assert np.array_equal(one.docids, two.docids) and np.array_equal(one.scores, two.scores), (name, i)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(TERMS), st.sampled_from([0.5, 1.0, 1.5, 8.0]), min_size=1, max_size=12), st.data())
def test_any_query(postings: Postings, searcher: Searcher, query: dict[str, float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 3000))
    docids, scores = brute_force(query, k)
    found = search(postings, searcher, query, k)
    assert np.array_equal(found.docids, docids) and np.array_equal(found.scores, scores)


@pytest.mark.parametrize("documents", [1, 63, 64, 65, 4096, 4097, 16384, 16385])
@pytest.mark.parametrize("name", EXACT[1:])
def test_collections_around_the_sizes_of_windows(tmp_path: Path, documents: int, name: str) -> None:
    part = MATRIX[:documents]
    write_postings(tmp_path, MatrixVectors([f"d{i}" for i in range(documents)], part, TERMS))
    postings = Postings(tmp_path / POSTINGS_FILE)
    for k in (1, 10, documents):
        for query in random_queries(10, step=0.25):
            one = search(postings, _NumpySearcher(postings), query, k)
            two = search(postings, algorithm(name, {}).prepare(postings), query, k)
            assert np.array_equal(one.docids, two.docids) and np.array_equal(one.scores, two.scores)


def test_lists_are_looked_up_where_few_documents_are_left(postings: Postings, monkeypatch: pytest.MonkeyPatch) -> None:
    """MaxScore skips postings; its results are checked above, the skipping here."""
    scored, every = 0, 0
    loops = kernels("maxscore", "this test")
    kernel = loops.maxscore

    def count(*args: Any) -> int:
        nonlocal scored
        found: int = kernel(*args)
        scored += found
        return found

    monkeypatch.setattr(loops, "maxscore", count)
    searcher = algorithm("maxscore", {}).prepare(postings)
    for rare in range(100, 250, 5):
        query = {"Ġ0": 0.01, "Ġ1": 0.01, "Ġ2": 0.01, TERMS[rare]: 5.0}
        found = search(postings, searcher, query, 10)
        assert np.array_equal(found.docids, brute_force(query, 10)[0])
        every += sum(len(postings.list_of(term)[0]) for term in postings.query(query).terms)
    assert 0 < scored < every / 2


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    rows = (MATRIX[i] for i in range(500))
    stream = (
        {"docno": f"d{i}", "toks": {TERMS[c]: int(v) for c, v in zip(row.indices, row.data)}} for i, row in enumerate(rows)
    )
    return ImpactIndex(tmp_path_factory.mktemp("options") / "index").index(stream)


def frame(queries: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame({"qid": [str(i) for i in range(len(queries))], "query_toks": queries})


@pytest.mark.parametrize("name", ["exhaustive", "maxscore", "bmp"])
@pytest.mark.parametrize("threads", [1, 3])
def test_retrievers_agree_with_terrier(index: ImpactIndex, name: str, threads: int) -> None:
    queries = frame(random_queries(60, step=0.25))
    terrier = index.retriever(num_results=50).transform(queries)
    found = index.retriever(algorithm=name, num_results=50, threads=threads).transform(queries)
    pd.testing.assert_frame_equal(terrier, found)


def test_without_numba(index: ImpactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = frame(random_queries(10, step=0.25))
    compiled = index.retriever(algorithm="exhaustive").transform(queries)
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else find(name, *rest))
    assert not _fast.has_numba()
    index = ImpactIndex(index.path)
    retriever = index.retriever(algorithm="exhaustive")
    pd.testing.assert_frame_equal(retriever.transform(queries), compiled)
    assert type(index.open().searcher(retriever.algorithm)) is _exhaustive._NumpySearcher  # type: ignore[attr-defined]
    with pytest.raises(CspladeError, match=r'pip install "pyterrier_csplade\[fast\]"'):
        index.retriever(algorithm="maxscore").transform(queries)


def test_nothing_is_compiled_before_the_first_search() -> None:
    code = """
import sys
from pyterrier_csplade import ImpactIndex
retrievers = [ImpactIndex("nowhere").retriever(algorithm=name) for name in ("exhaustive", "maxscore")]
print([repr(r) for r in retrievers] and sorted({"numba", "llvmlite", "torch", "jnius"} & set(sys.modules)))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


@pytest.mark.parametrize("name", ["exhaustive", "maxscore", "bmp"])
def test_heaviest_terms_only(index: ImpactIndex, name: str) -> None:
    query = {"Ġ0": 0.5, "never": 9.0, "Ġ1": 2.0, "Ġ7": 1.0}
    cut = index.retriever(algorithm=name, max_terms=2).transform(frame([query]))
    pd.testing.assert_frame_equal(
        cut.drop(columns="query_toks"),
        index.retriever(algorithm=name).transform(frame([{"Ġ1": 2.0, "Ġ7": 1.0}])).drop(columns="query_toks"),
    )
    with pytest.raises(ValueError, match="max_terms"):
        index.retriever(algorithm=name, max_terms=0)


@pytest.mark.parametrize("name", ["exhaustive", "maxscore", "bmp"])
def test_large_budget_changes_nothing(index: ImpactIndex, name: str) -> None:
    queries = frame([*random_queries(20, step=0.25), {"never": 1.0}])
    limited = index.retriever(algorithm=name, max_postings=10**9, max_ms=1e9).transform(queries)
    assert not limited.pop("query_cut").any()
    pd.testing.assert_frame_equal(limited, index.retriever(algorithm=name).transform(queries))


def test_exhaustive_budget_keeps_the_terms_that_may_add_most(postings: Postings) -> None:
    query = {"Ġ0": 0.5, "Ġ9": 4.0, "Ġ4": 2.0}
    size = {term: len(postings.list_of(postings.number(term) or 0)[0]) for term in query}
    for limit, kept in ((1, ["Ġ9"]), (size["Ġ9"] + size["Ġ4"], ["Ġ9", "Ġ4"]), (sum(size.values()) - 1, ["Ġ9", "Ġ4"])):
        for searcher in (_NumpySearcher(postings), algorithm("exhaustive", {}).prepare(postings)):
            found = search(postings, searcher, query, 10, Budget(postings=limit))
            assert found.cut
            assert np.array_equal(found.docids, brute_force({term: query[term] for term in kept}, 10)[0])


def test_maxscore_budget_keeps_the_first_documents(postings: Postings) -> None:
    searcher = algorithm("maxscore", {}).prepare(postings)
    query = {"Ġ0": 0.5, "Ġ9": 4.0, "Ġ4": 2.0}
    found = search(postings, searcher, query, DOCUMENTS, Budget(postings=1))
    docids, scores = brute_force(query, DOCUMENTS)
    assert found.cut and found.docids.max() < 4096
    assert np.array_equal(found.docids, docids[docids < 4096]) and np.array_equal(found.scores, scores[docids < 4096])


@pytest.mark.parametrize("name", ["exhaustive", "maxscore", "bmp"])
def test_time_budget_ends_every_search_after_its_first_step(index: ImpactIndex, postings: Postings, name: str) -> None:
    found = search(postings, algorithm(name, {}).prepare(postings), {"Ġ0": 1.0, "Ġ1": 1.0, "Ġ2": 1.0}, 10, Budget(ms=1e-9))
    assert found.cut
    result = index.retriever(algorithm=name, max_ms=60_000).transform(frame([{"Ġ0": 1.0}]))
    assert result["query_cut"].tolist() == [False] * len(result)
    with pytest.raises(ValueError, match="max_ms"):
        index.retriever(algorithm=name, max_ms=0)
    with pytest.raises(ValueError, match="max_postings"):
        index.retriever(algorithm=name, max_postings=-1)


def test_arguments(index: ImpactIndex) -> None:
    with pytest.raises(ValueError, match="terrier, exhaustive, maxscore.*'bm25'"):
        index.retriever(algorithm="bm25")
    with pytest.raises(TypeError, match="no option 'alpha'"):
        index.retriever(algorithm="exhaustive", alpha=1)
    with pytest.raises(TypeError, match="Terrier has no option 'max_terms'"):
        index.retriever(max_terms=1)
    with pytest.raises(ValueError, match="exhaustive"):
        index.retriever("BM25", algorithm="exhaustive")
    with pytest.raises(ValueError, match="exhaustive"):
        index.retriever(algorithm="exhaustive", exact_scores=False)


def test_repr_equality_and_fusion(index: ImpactIndex) -> None:
    one = index.retriever(algorithm="maxscore", num_results=5, max_terms=3)
    assert repr(one) == f"{index!r}.retriever(algorithm='maxscore', num_results=5, max_terms=3)"
    assert one == index.retriever(algorithm="maxscore", num_results=5, max_terms=3, verbose=True)
    others = [index.retriever(algorithm=name, num_results=5, max_terms=3) for name in ("exhaustive",)]
    assert one not in [*others, index.retriever(num_results=5), index.retriever(algorithm="maxscore", num_results=5)]
    assert (index.retriever(algorithm="maxscore", max_terms=3) % 5).compile() == one
    assert len({one, index.retriever(algorithm="maxscore", num_results=5, max_terms=3), *others}) == 2
