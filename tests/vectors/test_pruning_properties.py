"""Static pruning of dicts and of matrices of any type, compared with sorting in plain Python."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from pyterrier_csplade import MatrixVectors, PruneToks

# Few distinct weights, so that many are equal; zeros may be stored.
SMALL = st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 3, 200]), max_size=9)
DTYPES = ["uint8", "uint16", "uint32", "int32", "int64", "float32", "float64"]
LIMITS: list[dict[str, Any]] = [{"top_k": k} for k in (1, 2, 3, 99)] + [{"min_weight": w} for w in (0.5, 1, 2.5, 3, 200, 201)]
LIMITS += [{"mass": share / 64} for share in (1, 16, 32, 33, 48, 63, 64)]


def kept(weights: list[int], limits: dict[str, Any]) -> list[int]:
    """Return the kept positions in order, by definition."""
    places = sorted(range(len(weights)), key=lambda place: (-weights[place], place))
    if "min_weight" in limits:
        return [place for place in range(len(weights)) if weights[place] >= limits["min_weight"]]
    if "top_k" in limits:
        return sorted(places[: limits["top_k"]])
    wanted, sums = Fraction(limits["mass"]) * sum(weights), 0
    found = []
    for place in places:
        if sums >= wanted:
            break
        sums += weights[place]
        found.append(place)
    return sorted(found)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(SMALL, min_size=1, max_size=6), limits=st.sampled_from(LIMITS), dtype=st.sampled_from(DTYPES))
def test_dicts_and_matrices_of_any_type(rows: list[list[int]], limits: dict[str, Any], dtype: str) -> None:
    prune, width = PruneToks(**limits), 10
    expected = [kept(row, limits) for row in rows]
    frame = pd.DataFrame({"docno": [f"d{i}" for i in range(len(rows))]})
    frame["toks"] = pd.Series([{f"t{place}": weight for place, weight in enumerate(row)} for row in rows], dtype=object)
    found = prune.transform(frame)["toks"]
    assert [list(vector) for vector in found] == [[f"t{place}" for place in places] for places in expected]
    data = np.array([weight for row in rows for weight in row], dtype)
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.concatenate([np.arange(len(row)) for row in rows]).astype(np.int32)
    matrix = csr_matrix((data, indices, indptr), shape=(len(rows), width))
    encoded = MatrixVectors(frame["docno"].tolist(), matrix, [f"t{i}" for i in range(width)])
    ((_, pruned),) = prune.vectors(encoded).blocks()
    assert pruned.dtype == dtype
    for row, places, start, end in zip(rows, expected, pruned.indptr, pruned.indptr[1:]):
        # Stored zeros may be dropped or kept.
        found_places = {int(i): float(w) for i, w in zip(pruned.indices[start:end], pruned.data[start:end]) if w}
        assert found_places == {place: row[place] for place in places if row[place]}
    np.testing.assert_array_equal(matrix.data, data)  # the input is unchanged


@settings(max_examples=40, deadline=None)
@given(SMALL, st.sampled_from(LIMITS), st.sampled_from(LIMITS))
def test_pruning_twice_is_pruning_by_the_stricter_limit(row: list[int], one: dict[str, Any], other: dict[str, Any]) -> None:
    frame = pd.DataFrame([{"qid": "q", "query_toks": {f"t{i}": weight for i, weight in enumerate(row)}}])
    first, second = (PruneToks(**limits, on="query_toks") for limits in (one, other))
    twice = (first >> second).transform(frame)["query_toks"].iloc[0]
    assert set(twice) <= set(first.transform(frame)["query_toks"].iloc[0])
    if one.keys() == other.keys() and "mass" not in one:
        stricter = min(one, other, key=lambda limits: limits.get("top_k", -limits.get("min_weight", 0)))
        assert dict(twice) == dict(PruneToks(**stricter, on="query_toks").transform(frame)["query_toks"].iloc[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stored_zero_is_never_the_heaviest(dtype: str) -> None:
    matrix = csr_matrix((np.array([0, 5, 7], dtype), np.arange(3), np.array([0, 3])), shape=(1, 3))
    ((_, pruned),) = PruneToks(top_k=1).vectors(MatrixVectors(["d"], matrix, ["a", "b", "c"])).blocks()
    assert pruned.toarray().tolist() == [[0, 0, 7]]
