"""An open index is one version, which closes its files and is not copied with its objects."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import DataError, ImpactIndex, ImpactIndexError
from pyterrier_csplade.index import FieldLoader
from support.indexes import documents

QUERY = pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0}}])
REPLACED = r"was built again while it was open: call close\(\), and search again"


def build(path: Path, name: str = "old", count: int = 10) -> ImpactIndex:
    stream = [{**d, "docno": f"{name}{i}", "text": f"{name} text {i}"} for i, d in enumerate(documents(count))]
    return ImpactIndex(path).toks_indexer(meta=["text"], overwrite=True).index(stream)  # type: ignore[return-value]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux does")
@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"algorithm": "exhaustive", "include_fields": ["text"]}])
def test_opening_again_and_again_leaves_no_files_open(
    tmp_path: Path, options: dict[str, Any], closed: bool, count: int
) -> None:
    index = build(tmp_path / "i")
    index.retriever(**options)(QUERY)
    index.close()
    before = descriptors()
    for _ in range(count):
        if not closed:
            index = ImpactIndex(tmp_path / "i")
        assert len(index.retriever(**options)(QUERY)) == 10
        if closed:
            index.index_obj()  # what was given out is closed, too
            index.close()
    index.close()
    assert descriptors() <= before


def test_objects_of_java_work_until_the_index_is_closed(tmp_path: Path) -> None:
    build(tmp_path / "i")
    meta = ImpactIndex(tmp_path / "i").meta_index()
    lexicon = ImpactIndex(tmp_path / "i").lexicon()
    assert [meta.getItem("docno", i) for i in range(10)] == [f"old{i}" for i in range(10)] and "a" in lexicon


def test_a_search_that_runs_ends_on_the_index_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(tmp_path / "i", count=300)
    variants: list[dict[str, Any]] = [{}, {"threads": 2}, {"algorithm": "exhaustive"}]
    for options in variants:
        retriever = index.retriever(include_fields=["text"], num_results=5, **options)
        queries = pd.DataFrame({"qid": [str(i) for i in range(50)], "query_toks": [{"a": 1.0 + i} for i in range(50)]})
        expected, started, search = retriever(queries), threading.Event(), retriever._search_one

        def slow(*args: Any, started: Any = started, search: Any = search) -> Any:
            started.set()
            return search(*args)

        monkeypatch.setattr(retriever, "_search_one", slow)
        with ThreadPoolExecutor(1) as executor:
            running = executor.submit(retriever, queries)
            started.wait()
            index.close()
            pd.testing.assert_frame_equal(running.result(), expected)


def test_a_replaced_index_is_never_mixed_with_the_new_one(tmp_path: Path) -> None:
    """Parts that are opened after the index was replaced are refused; those that are open answer as before."""
    index = build(tmp_path / "i")
    results = index.retriever()(QUERY)
    uses: dict[str, Any] = {
        "threads": lambda: index.retriever(threads=2)(QUERY),
        "postings": lambda: index.retriever(algorithm="exhaustive")(QUERY),
        "scorer": lambda: index.scorer()(results),
        "reorder": lambda: index.reorder(results["docno"]),
        "corpus": lambda: list(index.get_corpus_iter()),
    }
    build(tmp_path / "i", "new")
    for name, use in uses.items():
        with pytest.raises(ImpactIndexError, match=REPLACED):
            pytest.fail(f"{name}: {use()}")
    pd.testing.assert_frame_equal(index.retriever()(QUERY), results)
    assert len(index) == 10 and index.text_loader()(results)["text"].str.startswith("old").all()
    index.close()
    assert index.retriever(threads=2)(QUERY)["docno"].str.startswith("new").all()
    assert {row["docno"][:3] for row in index.get_corpus_iter()} == {"new"}


@pytest.mark.parametrize("algorithm", ["bmp", "guided"])
def test_side_files_of_a_replaced_index_are_not_mixed_with_the_new_ones(tmp_path: Path, algorithm: str) -> None:
    pytest.importorskip("numba")
    index = build(tmp_path / "i")
    exact: dict[str, Any] = {"alpha": 0, "beta": 0} if algorithm == "guided" else {}
    expected = index.retriever(algorithm="exhaustive")(QUERY)
    index.add_guide(index)
    build(tmp_path / "i", "new").add_guide(ImpactIndex(tmp_path / "i"))
    try:
        found = index.retriever(algorithm=algorithm, **exact)(QUERY)
        pd.testing.assert_frame_equal(found, expected)
    except ImpactIndexError as error:
        assert "close()" in str(error)
    with pytest.raises(ImpactIndexError, match=REPLACED):
        index.add_guide(index)
    fresh = ImpactIndex(tmp_path / "i").retriever(algorithm=algorithm, **exact)
    assert fresh(QUERY)["docno"].str.startswith("new").all()


def test_an_order_and_a_guide_are_used_from_the_next_search_on(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    index = build(tmp_path / "i")
    bmp, guided = index.retriever(algorithm="bmp", block_size=2), index.retriever(algorithm="guided", gamma=1.0)
    index.add_guide({"docno": f"old{i}", "toks_tf": {"a": 20 - i}} for i in range(10))
    first, plain = guided(QUERY), bmp(QUERY)
    index.reorder([f"old{i}" for i in (9, 1, 8, 2, 7, 3, 6, 4, 5, 0)])
    index.add_guide({"docno": f"old{i}", "toks_tf": {"a": 1 + i}} for i in range(10))
    pd.testing.assert_frame_equal(bmp(QUERY), plain)
    assert list(index.directory.glob("csplade_blocks-2-reordered.bin"))
    assert first["docno"][0] == "old0" and guided(QUERY)["docno"][0] == "old9"


def test_an_open_index_can_be_copied_and_sent(tmp_path: Path) -> None:
    index = build(tmp_path / "i")
    index.retriever(threads=2)(QUERY)
    index.retriever(algorithm="exhaustive", include_fields=["text"])(QUERY)
    index.index_ref()
    indexer = index.toks_indexer(overwrite=True)
    for made in (index, indexer, index.text_loader(), index.retriever(threads=3), index.scorer()):
        content = pickle.dumps(made)
        assert len(content) < 2_000
        for other in (pickle.loads(content), copy.deepcopy(made), copy.copy(made)):
            assert other == made and hash(other) == hash(made) and repr(other) == repr(made)
    other = pickle.loads(pickle.dumps(index))
    pd.testing.assert_frame_equal(other.retriever()(QUERY), index.retriever()(QUERY))


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive", "bmp"])
def test_values_that_the_constructor_refuses_cannot_be_set(tmp_path: Path, algorithm: str) -> None:
    retriever = ImpactIndex(tmp_path / "i").retriever(algorithm=algorithm)
    before = repr(retriever)
    wrong: dict[str, list[tuple[str, Any]]] = {
        "terrier": [],
        "exhaustive": [("max_terms", 0), ("max_ms", -1)],
        "bmp": [("alpha", 2.0), ("algorithm", "bm25")],
    }
    for name, value in [("num_results", 0), ("threads", "2"), ("nothing", 1), *wrong[algorithm]]:
        with pytest.raises(ValueError):
            retriever.set_parameter(name, value)
        assert repr(retriever) == before
    retriever.set_parameter("include_fields", "text")
    assert retriever.get_parameter("include_fields") == ["text"]


def test_an_algorithm_can_be_changed(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    index = build(tmp_path / "i")
    retriever = index.retriever(algorithm="bmp", alpha=0.5)
    assert retriever.get_parameter("alpha") == 0.5
    retriever(QUERY)
    retriever.set_parameter("algorithm", "maxscore")
    assert retriever == index.retriever(algorithm="maxscore")
    pd.testing.assert_frame_equal(retriever(QUERY), index.retriever()(QUERY))


def test_fields_are_loaded_by_docid_or_docno(tmp_path: Path) -> None:
    index = build(tmp_path / "i")
    results = index.retriever(num_results=4)(QUERY)
    assert type(index.text_loader()) is FieldLoader
    for inp in (results, results.drop(columns="docid"), results.drop(columns="docno")):
        for fields in ("*", "text", ["text"]):
            found, expected = index.text_loader(fields)(inp), pt.terrier.TerrierIndex(index.path).text_loader(fields)(inp)
            pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert len(index.text_loader()(results[:0])) == 0
    assert ((index.retriever() >> index.text_loader()) % 2).compile()(QUERY)["text"].tolist() == ["old text 9", "old text 8"]
    with pytest.raises(ImpactIndexError, match="no field 'title', only"):
        index.text_loader("title")(results)
    with pytest.raises(DataError, match="document 'other' is not in"):
        index.text_loader()(pd.DataFrame({"docno": ["other"]}))
    docno = pd.Series([np.str_("old3")], dtype=object)  # Java does not accept strings of numpy
    assert index.text_loader()(pd.DataFrame({"docno": docno}))["text"].tolist() == ["old text 3"]
    with pytest.raises(DataError, match="docid 10 is not in"):
        index.text_loader()(pd.DataFrame({"docid": [1, 10]}))
    for docid in (1.5, float("nan"), float("inf"), "x", None, [1]):
        with pytest.raises(DataError, match="docid of some results is not a whole number"):
            index.text_loader()(pd.DataFrame({"docid": pd.Series([0, docid], dtype=object)}))
    assert len(index.text_loader()(pd.DataFrame({"docid": [1.0, 2.0]}))) == 2
    build(tmp_path / "i", "new")
    index.close()
    with pytest.raises(ImpactIndexError, match="docid and docno .* do not match"):
        index.text_loader()(results)


def test_threads_share_loaders_and_corpora(tmp_path: Path) -> None:
    index = build(tmp_path / "i", count=100)
    results = index.retriever()(QUERY)
    texts, corpus = index.text_loader("text")(results), list(index.get_corpus_iter())

    def work(number: int) -> None:
        for _ in range(5):
            if number % 2:
                pd.testing.assert_frame_equal(index.text_loader("text")(results), texts)
            else:
                assert list(index.get_corpus_iter()) == corpus
            pd.testing.assert_frame_equal(index.retriever()(QUERY), results)

    with ThreadPoolExecutor(6) as executor:
        for done in [executor.submit(work, number) for number in range(6)]:
            done.result()
