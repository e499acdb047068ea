from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_matrix

from pyterrier_csplade import Contract, DataError, ImpactVector, Quantizer
from pyterrier_csplade.vectors import MAX_IMPACT, minimum_weight, to_vectors, top_k

WEIGHTS = arrays(np.float32, (4, 6), elements=st.floats(0, 20, width=32))


def test_quantizer_rounds_half_up_and_drops_zeros() -> None:
    quantised = Quantizer(100)(csr_matrix(np.array([[0.004, 0.0050001, 0.125, 1.0, 2.994]])))
    assert quantised.toarray().tolist() == [[0, 1, 13, 100, 299]]
    assert quantised.nnz == 4
    assert quantised.dtype == np.int32


@given(WEIGHTS, st.floats(0.5, 1000))
def test_quantisation_loses_at_most_half_a_step(weights: np.ndarray, scale: float) -> None:
    quantised = Quantizer(scale)(csr_matrix(weights)).toarray()
    assert np.all(np.abs(quantised / scale - weights) <= 0.5 / scale + 1e-9)


@pytest.mark.parametrize("weight", [-0.1, np.nan, np.inf, -np.inf, MAX_IMPACT])
def test_quantizer_refuses_what_no_index_can_hold_and_names_the_row(weight: float) -> None:
    with pytest.raises(DataError, match="row 2"):
        Quantizer(100)(csr_matrix(np.array([[0.0, 1], [0, 0], [1, weight]])))


@pytest.mark.parametrize("scale", [0, -1, float("inf"), float("nan")])
def test_quantizer_refuses_a_scale_that_is_none(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        Quantizer(scale)


@given(WEIGHTS, st.integers(0, 7))
def test_top_k_keeps_the_largest(weights: np.ndarray, k: int) -> None:
    kept = top_k(csr_matrix(weights), k).toarray()
    for row, result in zip(weights, kept):
        largest = np.argsort(-row, kind="stable")[:k]
        expected = np.zeros_like(row)
        expected[largest] = row[largest]
        assert result.tolist() == expected.tolist()


def test_minimum_weight() -> None:
    assert minimum_weight(csr_matrix([[0.1, 0.3], [0.2, 0.0]]), 0.2).toarray().tolist() == [[0, 0.3], [0.2, 0]]


def test_to_vectors_holds_every_entry_heaviest_first() -> None:
    matrix = random_matrix(5, 9, density=0.5, random_state=1, format="csr")
    terms = [f"t{column}" for column in range(9)]
    contract = Contract()
    for row, vector in zip(matrix.toarray(), to_vectors(matrix, terms, contract)):
        assert dict(vector) == {f"t{column}": row[column] for column in np.flatnonzero(row)}
        assert list(vector.values()) == sorted(vector.values(), reverse=True)
        assert vector.contract is contract


def test_integer_impacts_are_python_integers() -> None:
    (vector,) = to_vectors(csr_matrix(np.array([[3, 0]], dtype=np.int32)), ["a", "b"])
    assert type(vector["a"]) is int


def test_an_impact_vector_is_a_dict_that_survives_pickling() -> None:
    vector = ImpactVector({"a": 1}, Contract(weights="w"), b"digest")
    copy = pickle.loads(pickle.dumps(vector))
    assert copy == {"a": 1}
    assert (copy.contract, copy.text_digest) == (vector.contract, b"digest")


def test_notebooks_show_bars() -> None:
    shown = ImpactVector({"<b>": 50.0, "a": 100.0, **{f"t{number}": 1.0 for number in range(20)}})._repr_html_()
    assert shown.index(">a<") < shown.index("&lt;b&gt;") and "width:160px" in shown and "width:80px" in shown
    assert shown.count("<tr>") == 21 and "and 2 more" in shown and "<b>" not in shown
    assert ImpactVector({})._repr_html_() == "<table></table>"
