"""The scorer: exact values against numpy, vectors that are given, and ranks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyterrier_csplade import CSPLADE, ContractError, DataError, PruneToks
from pyterrier_csplade.vectors import ImpactVector
from support.models import language_model, tokenizer
from support.results import results
from support.texts import dense


def test_scores_are_the_dot_products_of_the_weights(csplade: CSPLADE, topics: pd.DataFrame, documents: pd.DataFrame) -> None:
    inp = results(topics, documents)
    found = csplade.scorer()(inp)
    queries = dense(csplade.encode_queries(list(inp["query"])))
    texts = dense(csplade.encode_docs(list(inp["text"])))
    np.testing.assert_allclose(found["score"], (queries * texts).sum(axis=1), rtol=1e-6)
    assert list(found.index) == list(inp.index)
    pd.testing.assert_frame_equal(found[inp.columns], inp)
    for _, group in found.groupby("qid"):
        assert list(group.sort_values("score", ascending=False)["rank"]) == list(range(len(documents)))


def test_a_text_is_encoded_once(csplade: CSPLADE, encoded: list[tuple[str, list[str]]]) -> None:
    inp = pd.DataFrame({"qid": ["1", "1", "2"], "query": ["a", "a", "b"], "docno": ["x", "y", "x"], "text": ["t", "u", "t"]})
    csplade.scorer()(inp)
    assert encoded == [("query", ["a", "b"]), ("document", ["t", "u"])]


def test_equal_scores_rank_in_the_order_of_the_rows(csplade: CSPLADE) -> None:
    inp = pd.DataFrame({"qid": ["1"] * 3, "query": ["a"] * 3, "docno": ["z", "y", "x"], "text": ["same"] * 3})
    assert list(csplade.scorer()(inp)["rank"]) == [0, 1, 2]


def test_score_and_rank_are_replaced(csplade: CSPLADE, topics: pd.DataFrame, documents: pd.DataFrame) -> None:
    inp = results(topics, documents)
    first = csplade.scorer()(inp.assign(score=-1.0, rank=99))
    pd.testing.assert_frame_equal(first[[*inp.columns, "score", "rank"]], csplade.scorer()(inp))


def test_given_vectors_are_used_as_they_are(csplade: CSPLADE, encoded: list[Any]) -> None:
    ours = csplade.contract
    inp = pd.DataFrame(
        {
            "qid": ["1", "1", "2"],
            "query_toks": [ImpactVector(toks, ours) for toks in ({"a": 2.0, "b": 0.5}, {"a": 2.0, "b": 0.5}, {})],
            "docno": ["x", "y", "x"],
            "toks": [ImpactVector(toks, ours.replace(impact_scale=7)) for toks in ({"a": 3}, {"a": 3, "b": 4}, {"a": 3})],
        }
    )
    found = csplade.scorer()(inp.assign(query="other words", text="other words"))
    assert not encoded
    assert list(found["score"]) == [6.0, 8.0, 0.0]
    assert list(found["rank"]) == [1, 0, 0]


@pytest.mark.parametrize("given", ["query_toks", "toks"])
def test_one_given_side_is_enough(csplade: CSPLADE, topics: pd.DataFrame, documents: pd.DataFrame, given: str) -> None:
    inp = results(topics, documents)
    expected = csplade.scorer()(inp)["score"]
    encoder = csplade.query_encoder() if given == "query_toks" else csplade.doc_encoder(quantizer=None)
    inp = encoder(inp).drop(columns="query" if given == "query_toks" else "text")
    np.testing.assert_allclose(csplade.scorer()(inp)["score"], expected, rtol=1e-6)


@pytest.mark.parametrize(("column", "text", "key"), [("query_toks", "query", "qid"), ("toks", "text", "docno")])
@pytest.mark.parametrize("origin", ["unknown", "another model", "one missing"])
def test_vectors_that_the_model_is_not_known_to_have_made_are_replaced(
    csplade: CSPLADE, topics: pd.DataFrame, documents: pd.DataFrame, column: str, text: str, key: str, origin: str
) -> None:
    inp = results(topics, documents)
    expected = csplade.scorer()(inp)["score"]
    if origin == "unknown":  # word pieces of another retriever
        inp[column] = pd.Series([{"##ed": 3.0, "index": 1.0}] * len(inp), inp.index, dtype=object)
    else:
        model = CSPLADE((language_model(seed=1), tokenizer())) if origin == "another model" else csplade
        inp = (model.query_encoder() if text == "query" else model.doc_encoder())(inp)
        if origin == "one missing":
            inp[column] = [None, *inp[column][1:]]
    np.testing.assert_allclose(csplade.scorer()(inp)["score"], expected, rtol=1e-6)
    found = csplade.scorer()(inp.to_dict("records"))
    np.testing.assert_allclose([record["score"] for record in found], expected, rtol=1e-6)
    with pytest.raises(
        ContractError, match=f"{key} '{inp[key].iloc[0]}': {column} contains a vector of .* add the column '{text}'"
    ):
        csplade.scorer()(inp.drop(columns=text))


@pytest.mark.parametrize(("column", "encoder"), [("query", "query_encoder"), ("text", "doc_encoder")])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_text_that_was_changed_after_it_was_encoded_is_encoded_again(
    csplade: CSPLADE, topics: pd.DataFrame, documents: pd.DataFrame, column: str, encoder: str, pruned: bool
) -> None:
    """The vectors of the earlier text were used."""
    inp = results(topics, documents)
    on: Any = "query_toks" if column == "query" else "toks"
    pipeline = getattr(csplade, encoder)() >> PruneToks(top_k=1000, on=on) if pruned else getattr(csplade, encoder)()
    for given in (pipeline(inp), pd.DataFrame(pipeline(inp.to_dict("records"))), pickle.loads(pickle.dumps(pipeline(inp)))):
        given[column] = [*given[column][:-1], "Sparse retrieval"]
        expected = csplade.scorer()(given.drop(columns=on))["score"]
        np.testing.assert_allclose(csplade.scorer()(given)["score"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("query_toks", "toks", "message"),
    [
        ({"a": "1"}, {"a": 1}, "must be numbers"),
        ({"a": float("nan")}, {"a": 1}, "not finite"),
        ({"a": 1.0}, {"a": float("inf")}, "not finite"),
    ],
)
def test_unusable_vectors_are_refused_by_name(csplade: CSPLADE, query_toks: Any, toks: Any, message: str) -> None:
    vectors = {"query_toks": ImpactVector(query_toks, csplade.contract), "toks": ImpactVector(toks, csplade.contract)}
    inp = pd.DataFrame([{"qid": "7", "docno": "x", **vectors}])
    with pytest.raises(DataError, match=f"query 7, document x: .*{message}"):
        csplade.scorer()(inp)


def test_vectors_of_unknown_origin_are_refused_without_loading(unloaded: CSPLADE) -> None:
    inp = pd.DataFrame({"qid": ["1"], "query_toks": [{"a": 2.0}], "docno": ["x"], "toks": [{"a": 3}]})
    with pytest.raises(
        ContractError, match=r"qid '1': query_toks contains a vector of unknown origin, not of CSPLADE\(model\)"
    ):
        unloaded.scorer()(inp)
