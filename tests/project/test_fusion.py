"""Hybrids against hand-worked values, ranx, and the fusion of pyterrier-alpha."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import DataError, hybrid

TOPICS = pd.DataFrame({"qid": ["2", "1"], "query": ["cats", "dogs"]})
WORDS = [("1", "a", 9.0), ("1", "b", 5.0), ("1", "c", 1.0), ("2", "d", 3.0)]
LEARNED = [("1", "c", 900.0), ("1", "e", 700.0), ("1", "a", 100.0), ("2", "f", 40.0), ("2", "d", 40.0)]


class Fixed(pt.Transformer):
    """Returns given results, in any order, with a query of its own, as RM3 does."""

    def __init__(self, rows: list[tuple[str, str, float]], **columns: Any) -> None:
        self.rows, self.columns = rows, columns

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        found = pd.DataFrame([row for row in self.rows if row[0] in set(inp["qid"])], columns=["qid", "docno", "score"])
        found = found.assign(
            query="rewritten", docid=7, **{name: list(found["docno"].map(f)) for name, f in self.columns.items()}
        )
        return pt.model.add_ranks(found.iloc[::-1].reset_index(drop=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fixed) and self.rows == other.rows

    def __hash__(self) -> int:
        return hash(tuple(self.rows))


def scores(found: pd.DataFrame) -> dict[str, dict[str, float]]:
    return {str(qid): dict(zip(rows["docno"], rows["score"])) for qid, rows in found.groupby("qid")}


def test_reciprocal_ranks_by_hand() -> None:
    found = hybrid(Fixed(WORDS), Fixed(LEARNED))(TOPICS)
    expected = {
        "1": {"a": 1 / 61 + 1 / 63, "c": 1 / 63 + 1 / 61, "b": 1 / 62, "e": 1 / 62},
        "2": {"d": 1 / 61 + 1 / 61, "f": 1 / 62},  # of equal scores, the first row ranks first: rows come in reverse
    }
    assert {qid: pytest.approx(values) for qid, values in expected.items()} == scores(found)
    assert found["qid"].tolist() == ["2", "2", "1", "1", "1", "1"] and found["rank"].tolist() == [0, 1, 0, 1, 2, 3]
    assert set(found["query"]) == {"cats", "dogs"} and set(found.columns) == {"qid", "query", "docno", "score", "rank"}


def test_minmax_by_hand() -> None:
    found = hybrid(Fixed(WORDS), Fixed(LEARNED), method="minmax", weights=(0.5, 2))(TOPICS)
    expected = {
        "1": {"a": 0.5, "b": 0.25, "c": 2.0, "e": 2 * 600 / 800},
        "2": {"d": 0.5 + 2, "f": 2.0},  # equal scores become 1, and f, which only one system retrieves, gets 0 from the other
    }
    assert {qid: pytest.approx(values) for qid, values in expected.items()} == scores(found)


def test_zscore_by_hand() -> None:
    found = hybrid(Fixed(WORDS), Fixed(LEARNED), method="zscore")(TOPICS.iloc[1:])
    words = {"a": 1.224745, "b": 0.0, "c": -1.224745, "e": -1.224745}
    mean, deviation = 1700 / 3, (((900 - 1700 / 3) ** 2 + (700 - 1700 / 3) ** 2 + (100 - 1700 / 3) ** 2) / 3) ** 0.5
    learned = {docno: (score - mean) / deviation for docno, score in {"c": 900, "e": 700, "a": 100, "b": 100}.items()}
    assert scores(found)["1"] == pytest.approx({docno: words[docno] + learned[docno] for docno in words}, abs=1e-5)


@pytest.mark.slow  # ranx compiles its functions
@pytest.mark.parametrize(("method", "norm", "fusion"), [("minmax", "min-max", "sum"), ("rrf", None, "rrf")])
def test_ranx_agrees(method: Any, norm: str | None, fusion: str) -> None:
    """Where each system retrieves the same documents; ranx gives 0 to others."""
    ranx = pytest.importorskip("ranx")
    one = [("1", "a", 9.0), ("1", "b", 5.5), ("1", "c", 1.0), ("2", "d", 3.0), ("2", "f", 1.0)]
    two = [("1", "c", 900.0), ("1", "b", 700.0), ("1", "a", 100.0), ("2", "f", 40.0), ("2", "d", 10.0)]
    runs = [ranx.Run({q: {d: s for p, d, s in rows if p == q} for q in "12"}) for rows in (one, two)]
    expected = ranx.fuse(runs=runs, norm=norm, method=fusion).to_dict()
    found = scores(hybrid(Fixed(one), Fixed(two), method=method)(TOPICS))
    assert found == {qid: pytest.approx(values) for qid, values in expected.items()}


def test_results_cut_and_columns_of_documents() -> None:
    fused = hybrid(Fixed(WORDS, text=str.upper), Fixed(LEARNED), num_results=2)
    found = fused(TOPICS)
    assert found.groupby("qid").size().tolist() == [2, 2]
    assert found.loc[found["qid"] == "1", "docno"].tolist() == ["c", "a"]
    assert found.loc[found["qid"] == "1", "text"].tolist() == ["C", "A"]
    assert found.loc[found["docno"] == "f", "text"].isna().all()


def test_nothing_found_and_no_queries() -> None:
    fused = hybrid(Fixed([]), Fixed(LEARNED), method="minmax")
    assert scores(fused(TOPICS))["1"] == pytest.approx({"c": 1.0, "e": 0.75, "a": 0.0})
    assert hybrid(Fixed([]), Fixed([]))(TOPICS).empty
    empty = fused(TOPICS.head(0))
    assert empty.empty and {"qid", "query", "docno", "score", "rank"} <= set(empty.columns)


def test_what_pyterrier_alpha_does_with_rewritten_queries() -> None:
    """pyterrier-alpha's fusion merges by query: a document appears once for each rewriting, which ``hybrid`` avoids."""
    fusion = pytest.importorskip("pyterrier_alpha.fusion")
    same = fusion.RRFusion(Fixed(WORDS), Fixed(WORDS), k=61)(TOPICS.iloc[1:])
    assert scores(same)["1"] == pytest.approx(scores(hybrid(Fixed(WORDS), Fixed(WORDS))(TOPICS.iloc[1:]))["1"])
    rewriting = fusion.RRFusion(Fixed(WORDS) >> pt.apply.query(lambda row: "dogs"), Fixed(WORDS))(TOPICS.iloc[1:])
    assert rewriting["docno"].duplicated().any()


def test_tuning_of_weights() -> None:
    qrels = pd.DataFrame({"qid": ["1", "2"], "docno": ["e", "f"], "label": [1, 1]})
    fused = hybrid(Fixed(WORDS), Fixed(LEARNED), method="minmax")
    grid = {fused: {"weights": [(1.0, 0.0), (0.0, 1.0)]}}
    tuned = pt.GridSearch(fused, grid, TOPICS, qrels, metric="recip_rank", verbose=False)
    assert tuned.weights == (0.0, 1.0)


def test_it_compares_copies_and_names_itself() -> None:
    fused = hybrid(Fixed(WORDS), Fixed(LEARNED), method="zscore", weights=[1, 2])
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert other == fused and hash(other) == hash(fused)
    assert hybrid(Fixed(WORDS), Fixed(LEARNED)) != fused
    assert repr(fused).startswith("hybrid(") and repr(fused).endswith("method='zscore', weights=[1, 2])")
    assert pt.inspect.subtransformers(fused) == {"systems": list(fused.systems)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "sum"}, ValueError, "method must be one of rrf, minmax, zscore, found 'sum'"),
        ({"method": None}, ValueError, "method must be one of"),
        ({"weights": (1.0,)}, ValueError, "weights must have one number for each of 2 systems"),
        ({"weights": (1.0, -1)}, ValueError, "weights must be finite, at least 0 and not all 0"),
        ({"weights": (0, 0)}, ValueError, "weights must be finite, at least 0 and not all 0"),
        ({"num_results": 0}, ValueError, "num_results"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hybrid(Fixed(WORDS), Fixed(LEARNED), **arguments)


def test_systems_that_are_refused() -> None:
    with pytest.raises(ValueError, match="a hybrid combines at least 2 systems, found 1"):
        hybrid(Fixed(WORDS))
    with pytest.raises(TypeError, match="a system must be a transformer, found 'bm25'"):
        hybrid(Fixed(WORDS), "bm25")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="returns the document 'a' twice for the query '1'"):
        hybrid(Fixed(WORDS), Fixed([*LEARNED, ("1", "a", 1.0)]))(TOPICS)
    with pytest.raises(DataError, match="returns a score that is not finite for the query '1', document 'z'"):
        hybrid(Fixed(WORDS), Fixed([*LEARNED, ("1", "z", float("inf"))]))(TOPICS)
    with pytest.raises(DataError, match="returns no 'docno', only qid, query"):
        hybrid(Fixed(WORDS), pt.Transformer.identity())(TOPICS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: None, "returns NoneType, not a frame"),
        (lambda results: {"qid": ["1"]}, "returns dict, not a frame"),
        (lambda results: results.assign(score="high"), "returns scores that are not numbers .*'high'"),
        (lambda results: results.assign(score=[[1.0]] * len(results)), "returns scores that are not numbers"),
        (lambda results: pd.concat([results, results[["score"]]], axis=1), "the frame has two columns 'score'"),
    ],
)
def test_what_is_no_ranking_is_refused(change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hybrid(Fixed(WORDS), pt.apply.generic(lambda queries: change(Fixed(LEARNED)(queries)), transform_outputs=list))(TOPICS)


def test_columns_may_have_names_that_are_no_text() -> None:
    fused = hybrid(Fixed(WORDS), Fixed(LEARNED))
    assert fused(TOPICS.assign(**{"x": 1}).rename(columns={"x": 0}))["docno"].tolist() == fused(TOPICS)["docno"].tolist()


def test_queries_without_their_own_qid_are_refused() -> None:
    fused = hybrid(Fixed(WORDS), Fixed(LEARNED))
    with pytest.raises(DataError, match="qid '1' appears twice"):
        fused(pd.DataFrame({"qid": ["1", "1"], "query": ["cats", "dogs"]}))
    with pytest.raises(DataError, match="row 1 has no qid"):
        fused(pd.DataFrame({"qid": ["1", None], "query": ["cats", "dogs"]}))
    results = fused(TOPICS)[["qid", "query", "docno"]]  # several rows for a query
    assert hybrid(Reranked(), Reranked())(results)["qid"].tolist() == results["qid"].tolist()


class Reranked(pt.Transformer):
    """Gives documents a score by their name, and numbers in place of text, as a user's function may."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        return inp.assign(score=[float(ord(docno[0])) for docno in inp["docno"]], qid=inp["qid"].astype(int))


def test_qids_and_docnos_that_are_numbers_are_read_as_text() -> None:
    topics = TOPICS.assign(qid=[2, 1])
    numbers = [("1", "7", 9.0), ("1", "8", 5.0), ("2", "7", 3.0)]
    as_numbers = Fixed(numbers) >> pt.apply.generic(lambda frame: frame.astype({"docno": int, "qid": int}))
    expected = scores(hybrid(Fixed(numbers), Fixed(numbers))(TOPICS))
    assert scores(hybrid(Fixed(numbers), as_numbers)(topics)) == expected


def test_results_of_other_queries_or_of_no_document_are_refused() -> None:
    other = Fixed(LEARNED) >> pt.apply.qid(lambda row: f"{row['qid']}x")
    with pytest.raises(DataError, match="returns results of a query '.x', which it was not given"):
        hybrid(Fixed(WORDS), other)(TOPICS)
    with pytest.raises(DataError, match="returns a result without qid or docno"):
        hybrid(Fixed(WORDS), Fixed([*LEARNED, ("1", None, 1.0)]))(TOPICS)  # type: ignore[list-item]


def test_weights_in_any_form() -> None:
    """An array cannot be compared as a whole, and a generator is empty after its first use."""
    systems = Fixed(WORDS), Fixed(LEARNED)
    expected = hybrid(*systems, weights=[0.5, 2.0])
    forms: list[Any] = [np.array([0.5, 2.0]), pd.Series([0.5, 2.0]), (weight for weight in (0.5, 2.0))]
    for weights in forms:
        fused = hybrid(*systems, weights=weights)
        assert fused == expected and hash(fused) == hash(expected) and repr(fused) == repr(expected)
        assert scores(fused(TOPICS)) == scores(fused(TOPICS)) == scores(expected(TOPICS))
    with pytest.raises(ValueError, match="weights must be a list of numbers, found 3"):
        hybrid(Fixed(WORDS), Fixed(LEARNED), weights=3)  # type: ignore[arg-type]
