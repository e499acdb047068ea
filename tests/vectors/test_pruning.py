"""Static pruning against hand-worked values, and its behaviour as a transformer."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from pyterrier_csplade import Contract, DataError, ImpactIndex, ImpactVector, PruneToks
from pyterrier_csplade.vectors import EncodedVectors, MatrixVectors

CONTRACT = Contract(weights="w", base_model="lm-one")
TOKS = {"Ġthe": 1, "cat": 5, "a": 2, "b": 2, "zero": 0}


def prune(vector: Any, **arguments: Any) -> Any:
    return PruneToks(**arguments).transform(pd.DataFrame([{"docno": "d", "toks": vector}]))["toks"].iloc[0]


@pytest.mark.parametrize(
    "arguments, kept",
    [
        ({"mass": 0.5}, ["cat"]),  # 5 of 10
        ({"mass": 0.51}, ["cat", "a"]),
        ({"mass": 0.7}, ["cat", "a"]),  # "a" comes before "b"
        ({"mass": 0.9}, ["cat", "a", "b"]),
        ({"mass": 1}, ["Ġthe", "cat", "a", "b"]),
        ({"mass": 1e-9}, ["cat"]),
        ({"top_k": 1}, ["cat"]),
        ({"top_k": 2}, ["cat", "a"]),
        ({"top_k": 99}, list(TOKS)),
        ({"min_weight": 2}, ["cat", "a", "b"]),
        ({"min_weight": 2.1}, ["cat"]),
        ({"min_weight": 6}, []),
    ],
)
def test_hand_worked(arguments: dict[str, Any], kept: list[str]) -> None:
    assert list(prune(TOKS, **arguments).items()) == [(term, TOKS[term]) for term in kept]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.floats(0.01, 1))
def test_mass_keeps_as_few_as_possible(weights: list[int], mass: float) -> None:
    vector = {f"t{i}": weight for i, weight in enumerate(weights)}
    kept = prune(vector, mass=mass)
    assert sum(kept.values()) >= mass * sum(weights)
    fewer = combinations(weights, len(kept) - 1)
    assert all(sum(some) < mass * sum(weights) for some in fewer)


def test_each_row_is_pruned_for_itself_and_keeps_what_it_is() -> None:
    frame = pd.DataFrame(
        {
            "docno": ["d1", "d2", "d3", "d4", "d5"],
            "toks": [ImpactVector({"a": 1, "b": 3}, CONTRACT), {}, None, math.nan, {"c": 0.25, "a": 0.125}],
            "title": list("vwxyz"),
        },
        index=[7, 3, 3, 1, 0],
    )
    before = frame.copy(deep=True)
    pruned = PruneToks(top_k=1).transform(frame)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(pruned[["docno", "title"]], frame[["docno", "title"]])
    first, second, third, fourth, fifth = pruned["toks"]
    assert (first, second, fifth) == ({"b": 3}, {}, {"c": 0.25})
    assert third is None and math.isnan(fourth)
    assert first.contract is CONTRACT and second.contract is None
    assert type(first["b"]) is int and isinstance(fifth, ImpactVector)
    streamed = list(PruneToks(top_k=1).transform_iter(frame.to_dict("records")))
    assert [record["toks"] for record in streamed if record["docno"] not in ("d3", "d4")] == [first, second, fifth]
    assert streamed[0]["title"] == "v"


def test_streams_in_chunks() -> None:
    stream = ({"docno": f"d{i}", "toks": {"a": i + 1, "b": 1}} for i in range(2500))
    assert [record["toks"] for record in PruneToks(mass=0.6).transform_iter(stream)] == [
        {"a": i + 1} if i + 1 >= 0.6 * (i + 2) else {"a": i + 1, "b": 1} for i in range(2500)
    ]


@pytest.mark.parametrize("arguments", [{"mass": 0.8}, {"top_k": 3}, {"min_weight": 40}])
def test_matrices_and_dicts_are_pruned_alike(arguments: dict[str, Any]) -> None:
    generator = np.random.default_rng(0)
    dense = generator.integers(1, 100, (40, 30)) * (generator.random((40, 30)) < 0.3)
    encoded = MatrixVectors([f"d{i}" for i in range(40)], csr_matrix(dense), [f"t{i}" for i in range(30)], CONTRACT)
    pruned = PruneToks(**arguments).vectors(encoded)
    assert isinstance(pruned, EncodedVectors)
    assert (len(pruned), pruned.contract, pruned.vocabulary) == (40, CONTRACT, encoded.vocabulary)
    ((docnos, matrix),) = pruned.blocks()
    assert docnos == encoded.docnos
    for row, wanted in zip(dense, matrix.toarray()):
        kept = prune({f"t{i}": int(weight) for i, weight in enumerate(row) if weight}, **arguments)
        assert {f"t{i}": weight for i, weight in enumerate(wanted.tolist()) if weight} == kept


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "1"])
def test_unusable_weights_are_refused_with_their_docno(weight: Any) -> None:
    with pytest.raises(DataError, match="document 'd': toks: the weight of 'a'"):
        prune({"a": weight}, mass=0.5)


@pytest.mark.parametrize("arguments", [{"mass": 0.5}, {"top_k": 1}, {"min_weight": 0.5}])
def test_terms_without_a_weight_are_absent(arguments: Any) -> None:
    """As Parquet returns dictionaries: with all terms of a column."""
    assert prune({"a": None, "b": 2.0, "c": None}, **arguments) == {"b": 2.0}
    assert prune({"a": None}, **arguments) == {}


def test_unusable_vectors_are_refused_with_their_qid() -> None:
    frame = pd.DataFrame([{"qid": "q1", "query_toks": [("a", 1.0)]}])
    with pytest.raises(DataError, match="query 'q1': query_toks must be a dict"):
        PruneToks(top_k=1, on="query_toks").transform(frame)


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"mass": 0.5, "top_k": 3}, {"mass": 0}, {"mass": 1.1}, {"top_k": 0}, {"top_k": 1.5}, {"min_weight": 0},
        {"min_weight": math.nan}, {"mass": 0.5, "on": "text"}, {"mass": 0.5, "on": None}, {"mass": "0.5"}, {"top_k": "3"},
        {"min_weight": "1"},
    ],
)  # fmt: skip
def test_unusable_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be|give one of"):
        PruneToks(**arguments)


def test_behaves_as_a_transformer() -> None:
    documents, queries = PruneToks(mass=0.9), PruneToks(top_k=20, on="query_toks")
    assert pt.inspect.transformer_inputs(documents) == [["docno", "toks"]]
    assert pt.inspect.transformer_outputs(queries, ["qid", "query", "query_toks"]) == ["qid", "query", "query_toks"]
    assert repr(queries) == "PruneToks(top_k=20, on='query_toks')"
    assert documents == PruneToks(mass=0.9) != PruneToks(mass=0.8) and hash(documents) == hash(PruneToks(mass=0.9))
    with pytest.raises(KeyError, match="query_toks"):
        queries.transform(pd.DataFrame([{"qid": "q", "query": "cats"}]))
    assert len(documents.transform(pd.DataFrame(columns=["docno", "toks"]))) == 0


def test_prunes_on_the_way_to_an_index_and_from_a_query(tmp_path: Path) -> None:
    stream = [{"docno": f"d{i}", "toks": ImpactVector({"a": 10 + i, "b": 1 + i % 2}, CONTRACT)} for i in range(10)]
    index = ImpactIndex(tmp_path / "index")
    (PruneToks(mass=0.9) >> index).index(stream)
    assert index.contract == CONTRACT
    pipeline = PruneToks(min_weight=0.5, on="query_toks") >> index.retriever()
    queries = pd.DataFrame([{"qid": "q", "query_toks": {"b": 1.0, "a": 0.1}}])
    found = pipeline.transform(queries)
    # Documents whose "a" alone holds 90 % of the mass lose "b"; the query loses "a".
    expected = [f"d{i}" for i in range(10) if 10 + i < 0.9 * (11 + i + i % 2)]
    assert found["docno"].tolist() == sorted(expected, key=lambda docno: (-(1 + int(docno[1:]) % 2), docno))
