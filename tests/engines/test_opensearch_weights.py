"""Weights sent to OpenSearch and back, against exact fractions: impacts, changes by rounding, scores."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from inside.engines import impact_query
from pyterrier_csplade import DataError, MatrixVectors, OpenSearchIndex
from support.fake_opensearch import FakeCluster
from support.opensearch_documents import impacts

TERMS = ["a", "b.c", "%", "Ġd", ""]
NAMES = ["a", "b%2Ec", "%25", "Ġd", "%"]
# Multiples of 1/16, so that products with the scales are exact.
WEIGHTS = st.integers(-40, 8191).map(lambda sixteenths: sixteenths / 16)
SCALES = [1.0, 0.5, 0.25, 0.75]


def load(cluster: FakeCluster, rows: list[list[float]], scale: float, kind: str) -> OpenSearchIndex:
    """Load dicts or a matrix; how much rounding changed is read from the index."""
    index = OpenSearchIndex(cluster.client(), "docs")
    indexer = index.toks_indexer(scale=scale, max_empty=1)
    docnos = [f"d{i}" for i in range(len(rows))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "dicts":
            indexer.index({"docno": docno, "toks": dict(zip(TERMS, row))} for docno, row in zip(docnos, rows))
        else:
            indexer.index_vectors(MatrixVectors(docnos, csr_matrix(np.array(rows, kind)), TERMS))
    return index


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(WEIGHTS, min_size=5, max_size=5), min_size=1, max_size=6),
    scale=st.sampled_from(SCALES),
    kind=st.sampled_from(["dicts", "float32", "float64"]),
)
def test_impacts_are_rounded_half_up_and_changes_are_counted(rows: list[list[float]], scale: float, kind: str) -> None:
    rows[0][0] = 8.0  # so that there is something to index
    cluster = FakeCluster()
    index = load(cluster, rows, scale, kind)
    scaled = [[Fraction(weight) * Fraction(scale) for weight in row] for row in rows]
    expected = [[max(0, math.floor(value + Fraction(1, 2))) for value in row] for row in scaled]
    assert impacts(cluster) == {
        f"d{i}": {name: impact for name, impact in zip(NAMES, row) if impact} for i, row in enumerate(expected)
    }
    pairs = [(value, impact) for one, two in zip(scaled, expected) for value, impact in zip(one, two) if value > 0]
    changed = sum(abs(value - impact) for value, impact in pairs) / sum(value for value, _ in pairs)
    assert index.statistics == {
        "documents": len(rows),
        "empty_documents": sum(not any(row) for row in expected),
        "postings": sum(impact > 0 for _, impact in pairs),
        "dropped": sum(impact == 0 for _, impact in pairs),
        "quantization_loss": pytest.approx(float(changed), rel=1e-9, abs=1e-12),
    }


@pytest.mark.parametrize("kind", ["dicts", "float32", "float64"])
@pytest.mark.parametrize(("weight", "scale"), [(512.5, 1.0), (1025.0, 0.5), (513.0, 1.0), (1e9, 0.75)])
def test_the_first_impact_above_512_is_refused_with_a_small_enough_scale(weight: float, scale: float, kind: str) -> None:
    rows = [[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, weight, 3.0, 4.0, 5.0]]
    with pytest.raises(DataError, match=r"document 'd1': the impact of 'b.c' is .*, above 512, .* at most \S+$") as raised:
        load(FakeCluster(), rows, scale, kind)
    suggested = float(str(raised.value).rsplit(" ", 1)[1])
    cluster = FakeCluster()
    load(cluster, rows, suggested, kind)
    assert 500 <= impacts(cluster)["d1"]["b%2Ec"] <= 512
    largest = FakeCluster()
    load(largest, [[512.4375, 0.0, 0.0, 0.0, 0.0]], 1.0, kind)  # the largest weight that is rounded to 512
    assert impacts(largest) == {"d0": {"a": 512}}


DENSE = np.random.default_rng(7).integers(0, 513, (40, 5)) * (np.random.default_rng(8).random((40, 5)) < 0.6)
DENSE[30:] = DENSE[:10]  # ties


@pytest.fixture(scope="module")
def index() -> OpenSearchIndex:
    docnos = [f"d{i}" for i in np.random.default_rng(9).permutation(40)]
    found = OpenSearchIndex(FakeCluster().client(), "docs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return found.toks_indexer(max_empty=1).index_vectors(MatrixVectors(docnos, csr_matrix(DENSE), TERMS))


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0.5, 1.0), min_size=1, max_size=5),
    exponent=st.integers(-700, 500),
    spread=st.integers(0, 50),
    k=st.sampled_from([1, 7, 40]),
)
def test_scores_are_exact_to_single_precision_whatever_the_weights(
    index: OpenSearchIndex, weights: list[float], exponent: int, spread: int, k: int
) -> None:
    query = {term: math.ldexp(w, exponent - i * spread) for i, (term, w) in enumerate(zip(TERMS, weights))}
    found = index.retriever(num_results=k).transform(pd.DataFrame([{"qid": "q", "query_toks": query}]))
    permuted = [f"d{i}" for i in np.random.default_rng(9).permutation(40)]
    exact = {
        docno: sum((Fraction(query[term]) * int(row[TERMS.index(term)]) for term in query), Fraction())
        for docno, row in zip(permuted, DENSE)
    }
    expected = sorted((score for score in exact.values() if score), reverse=True)[:k]
    assert found["score"].tolist() == pytest.approx([float(score) for score in expected], rel=1e-6)
    assert found["score"].tolist() == pytest.approx([float(exact[docno]) for docno in found["docno"]], rel=1e-6)
    order = [(-score, docno) for docno, score in zip(found["docno"], found["score"])]
    assert order == sorted(order)  # equal scores come in the order of their docnos


@settings(max_examples=60, deadline=None)
@given(st.integers(-600, 500), st.one_of(st.integers(0, 400), st.integers(218, 225)), st.floats(0.5, 1.0, exclude_max=True))
def test_boosts_are_normal_numbers_of_single_precision_or_refused(exponent: int, spread: int, weight: float) -> None:
    """2 to the 96 leaves room for any sum; below 2 to the -126 digits would be lost."""
    weights = {"x": math.ldexp(weight, exponent), "y": math.ldexp(weight, exponent - spread)}
    if spread > 221:
        with pytest.raises(DataError, match="query 'q': OpenSearch cannot add weights that differ"):
            impact_query(weights, "q")
        return
    query, factor = impact_query(weights, "q")
    boosts = {clause["rank_feature"]["field"]: clause["rank_feature"]["boost"] for clause in query["bool"]["should"]}
    assert all(2.0**-126 <= boost <= 2.0**96 for boost in boosts.values())
    restored: dict[str, Any] = {f"impacts.{name}": value for name, value in weights.items()}
    assert {name: Fraction(boost) * Fraction(factor) for name, boost in boosts.items()} == restored
