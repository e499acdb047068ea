"""One retriever shared by several threads, also while the index is rebuilt: no answer mixes versions, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyterrier_csplade import ImpactIndex, ImpactIndexError

TERMS = [f"t{i}" for i in range(30)]
DOCUMENTS, QUERIES = 120, 40
ALGORITHMS = ["terrier", "exhaustive", "maxscore", "bmp", "guided"]


def matrix(version: int) -> np.ndarray:
    generator = np.random.default_rng(version)
    shape = DOCUMENTS, len(TERMS)
    values: np.ndarray = (generator.random(shape) < 0.4) * generator.integers(1, 100, shape)
    values[:, 0] = generator.integers(1, 100, DOCUMENTS)
    return values


def documents(version: int) -> list[dict[str, Any]]:
    """Docnos of even versions begin with a, docnos of odd versions with b."""
    return [
        {"docno": f"{'ab'[version % 2]}{version}-{i}", "toks": {t: int(w) for t, w in zip(TERMS, row) if w}}
        for i, row in enumerate(matrix(version))
    ]


def queries() -> list[dict[str, float]]:
    generator = np.random.default_rng(77)
    chosen = [generator.choice(len(TERMS), 6, replace=False) for _ in range(QUERIES)]
    return [{TERMS[i]: float(generator.integers(1, 9)) for i in terms} for terms in chosen]


def expected(version: int, query: dict[str, float]) -> list[tuple[str, float]]:
    weights = np.array([query.get(term, 0.0) for term in TERMS])
    scores = matrix(version) @ weights
    order = np.lexsort((np.arange(DOCUMENTS), -scores))[:10]
    return [(f"{'ab'[version % 2]}{version}-{i}", float(scores[i])) for i in order if scores[i] > 0]


def answer(retriever: Any, query: dict[str, float]) -> list[tuple[str, float]]:
    found = retriever(pd.DataFrame([{"qid": "q", "query_toks": query}]))
    return list(zip(found["docno"], found["score"]))


def in_threads(work: Callable[[int], None], threads: int = 8) -> None:
    with ThreadPoolExecutor(threads) as executor:
        for done in [executor.submit(work, number) for number in range(threads)]:
            done.result()


def make(path: Path, algorithm: str) -> tuple[ImpactIndex, Any]:
    if algorithm not in ("terrier", "exhaustive"):
        pytest.importorskip("numba")
    index = ImpactIndex(path).index(documents(0))
    options: dict[str, Any] = {}
    if algorithm == "guided":
        index.add_guide({"docno": d["docno"], "toks_tf": d["toks"]} for d in documents(0))
        options = {"alpha": 0.0, "beta": 0.0}
    return index, index.retriever(algorithm=algorithm, num_results=10, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [QUERIES, pytest.param(500, marks=pytest.mark.slow)])
def test_threads_that_share_a_retriever_get_what_one_thread_gets(tmp_path: Path, algorithm: str, count: int) -> None:
    _, retriever = make(tmp_path / "index", algorithm)
    right = [expected(0, query) for query in queries()]

    def work(number: int) -> None:
        for i in range(count):
            at = (i * 7 + number) % QUERIES
            assert answer(retriever, queries()[at]) == right[at]

    in_threads(work)


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive", "maxscore", "bmp"])
@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_no_answer_mixes_two_versions_of_an_index(tmp_path: Path, algorithm: str, seconds: float) -> None:
    index, retriever = make(tmp_path / "index", algorithm)
    right = {version: [expected(version, query) for query in queries()] for version in range(12)}
    built, stop, answers = [0], threading.Event(), [0]

    def rebuild() -> None:
        while not stop.is_set() and built[-1] < 11:
            version = built[-1] + 1
            index.toks_indexer(overwrite=True).index(documents(version))
            built.append(version)

    def work(number: int) -> None:
        if number == 0:
            rebuild()
        i = number
        while not stop.is_set():
            i += 1
            at = i % QUERIES
            try:
                found = answer(retriever, queries()[at])
            except ImpactIndexError as error:
                assert "open" in str(error) or "built" in str(error), error
                continue
            answers[0] += 1
            assert any(found == right[version][at] for version in [*built, built[-1] + 1] if version in right), found[:3]

    timer = threading.Timer(seconds, stop.set)
    timer.start()
    try:
        in_threads(work)
    finally:
        timer.cancel()
        stop.set()
    assert len(built) > 2 and answers[0] > 20


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_500_queries_of_each_of_8_threads_while_another_one_rebuilds(tmp_path: Path, algorithm: str) -> None:
    """Every answer is wholly from one version, or an error that says to reopen; a thread then reopens."""
    index, retriever = make(tmp_path / "index", algorithm)
    right = {version: [expected(version, query) for query in queries()] for version in range(200)}
    built, searched, refused = [0], threading.Event(), [0] * 8

    def rebuild() -> None:
        while not searched.is_set() and built[-1] < 199:
            built.append(built[-1] + 1)
            index.toks_indexer(overwrite=True).index(documents(built[-1]))
            if algorithm == "guided":
                index.add_guide({"docno": d["docno"], "toks_tf": d["toks"]} for d in documents(built[-1]))

    def work(number: int) -> None:
        i = 0
        while i < 500:
            at = (i * 7 + number) % QUERIES
            try:
                found = answer(retriever, queries()[at])
            except ImpactIndexError as error:
                assert any(word in str(error) for word in ("close()", "no index", "guide")), error
                refused[number] += 1
                continue
            i += 1
            assert any(found == right[version][at] for version in built), (number, i, found[:3])

    rebuilding = threading.Thread(target=rebuild)
    rebuilding.start()
    try:
        in_threads(work)
    finally:
        searched.set()
        rebuilding.join()
    assert len(built) > 3


@pytest.mark.parametrize("threads", [1, 3])
def test_a_retriever_reads_an_index_that_another_process_replaced(tmp_path: Path, threads: int) -> None:
    """It answers from the version that it opened, or refuses; after close(), it answers from the new version."""
    index = ImpactIndex(tmp_path / "index").index(documents(0))
    retriever = index.retriever(num_results=10, threads=threads, include_fields=["docno"])
    query = queries()[3]
    assert answer(retriever, query) == expected(0, query)
    ImpactIndex(tmp_path / "index").toks_indexer(overwrite=True).index(documents(1))  # as another process would
    try:
        assert answer(retriever, query) == expected(0, query)
    except ImpactIndexError as error:
        assert "close()" in str(error)
    index.close()
    assert answer(retriever, query) == expected(1, query)


def test_first_use_by_several_threads_opens_an_index_once(tmp_path: Path) -> None:
    ImpactIndex(tmp_path / "index").index(documents(0))
    for algorithm in ("terrier", "exhaustive"):
        retriever = ImpactIndex(tmp_path / "index").retriever(algorithm=algorithm, num_results=10)
        in_threads(partial(check, retriever))


def check(retriever: Any, number: int) -> None:
    assert answer(retriever, queries()[number]) == expected(0, queries()[number])


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive"])
def test_parameters_that_are_set_during_a_search_count_from_the_next_one(
    tmp_path: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = ImpactIndex(tmp_path / "index").index(documents(0)).retriever(algorithm=algorithm, num_results=5)
    search = type(retriever)._search_one  # type: ignore[attr-defined]

    def search_and_set(self: Any, *arguments: Any) -> Any:
        found = search(self, *arguments)
        retriever.set_parameter("num_results", 2)
        return found

    monkeypatch.setattr(type(retriever), "_search_one", search_and_set)
    frame = pd.DataFrame({"qid": ["a", "b", "c"], "query_toks": queries()[:3]})
    assert retriever(frame).groupby("qid").size().tolist() == [5, 5, 5]
    assert retriever(frame).groupby("qid").size().tolist() == [2, 2, 2]
