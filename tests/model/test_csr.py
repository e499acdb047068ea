"""From logits to compressed rows: limits, top-k and impacts against a loop over dense rows, at the edges of rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix

from inside.model import Entries, in_order, sparse_vectors, to_impacts
from pyterrier_csplade import CSPLADE, DataError, Quantizer
from pyterrier_csplade.model import Wanted
from support.models import TEXTS, language_model, tokenizer

NAMES = [f"document {i}" for i in range(5)]
# Weights on either side of, and exactly between, two impacts of the scale 100, and others that float32 cannot hold exactly.
EDGES = [0.0, 0.005, 0.0049999997, 0.0050000004, 0.125, 0.375, 0.12499999, 1.005, 2.675, 0.145, 3.0, 17.0]


def logit_of(weight: float) -> float:
    """A float32 logit whose activation is ``weight``, or as near as there is one."""
    return float(np.float32(math.expm1(weight)))


def entries(logits: np.ndarray, threshold: float = 0.0) -> Entries:
    rows, tokens = torch.from_numpy(logits > threshold).nonzero(as_tuple=True)
    return Entries(rows, tokens, torch.from_numpy(logits)[rows, tokens])


def reference(logits: np.ndarray, columns: list[int], wanted: Wanted) -> np.ndarray:
    """The vectors by the definition, one weight at a time."""
    dense = np.zeros((len(logits), 1 + max(columns)), dtype=np.float64)
    weights = torch.log1p(torch.from_numpy(logits).clamp(min=0)).numpy()
    least = float(np.float32(wanted.min_weight))  # a weight that is the limit, as a float32, is kept
    for row, values in enumerate(weights):
        candidates = [(-w, c) for w, c in zip(values.tolist(), columns) if c >= 0 and w > 0 and w >= least]
        for negative, column in sorted(candidates)[: wanted.top_k]:
            scale = wanted.quantizer.scale if wanted.quantizer else None
            dense[row, column] = -negative if scale is None else math.floor(-negative * scale + 0.5)
    return dense


@settings(max_examples=150, deadline=None)
@given(
    arrays(np.float32, (5, 9), elements=st.sampled_from([-1.0, 0.0, *map(logit_of, EDGES)])),
    st.sampled_from([0.0, 0.125, 0.145, 1.005]),
    st.sampled_from([None, 1, 2, 4, 99]),
    st.sampled_from([None, Quantizer(), Quantizer(8.0), Quantizer(0.3), Quantizer(1e5)]),
)
def test_vectors_are_those_of_the_definition(
    logits: np.ndarray, min_weight: float, top_k: int | None, quantizer: Quantizer | None
) -> None:
    wanted, columns = Wanted(min_weight, top_k, quantizer), [0, 1, -1, 2, 3, -1, 4, 5, 6]
    found = sparse_vectors(entries(logits, wanted.threshold), torch.tensor(columns), wanted, (5, 7), NAMES)
    np.testing.assert_array_equal(found.toarray(), reference(logits, columns, wanted))
    assert found.dtype == (np.int32 if quantizer else np.float32)
    assert found.indices.dtype == found.indptr.dtype == np.int32
    assert found.has_canonical_format and np.all(found.data > 0)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, 40, elements=st.floats(0, 80, width=32)), st.floats(1e-3, 1e6))
def test_impacts_are_the_quantizers_to_the_bit(weights: np.ndarray, scale: float) -> None:
    quantizer = Quantizer(scale)
    halves = ((np.arange(40) + 0.5) / scale).astype(np.float32)  # what comes nearest to lying between two impacts
    for values in (weights, halves, np.nextafter(halves, np.float32(0)), np.nextafter(halves, np.float32(99))):
        found = to_impacts(torch.from_numpy(values), quantizer)
        assert found is not None and found.dtype == torch.int32
        np.testing.assert_array_equal(found.numpy(), quantizer(csr_matrix(values)).toarray()[0])


def test_a_weight_exactly_between_two_impacts_goes_up() -> None:
    found = to_impacts(torch.tensor([0.5, 1.5, 2.5, 0.49999997, 1.4999999]), Quantizer(1.0))
    assert found is not None and found.tolist() == [1, 2, 3, 0, 1]


@pytest.mark.parametrize(
    ("logit", "scale", "message"),
    [
        (math.nan, 100.0, "document 3 has the weight nan: load the model with another dtype"),
        (math.inf, 100.0, "document 3 has the weight inf: load the model with another dtype"),
        (math.expm1(3.0), 1e9, "document 3 has the weight 3.0.*: impacts need weights from 0 to 2.14748"),
    ],
)
def test_what_has_no_impact_is_refused_by_name(logit: float, scale: float, message: str) -> None:
    logits = np.zeros((5, 3), dtype=np.float32)
    logits[1], logits[3, 2] = 0.5, logit
    found = Entries(torch.tensor([1, 1, 1, 3]), torch.tensor([0, 1, 2, 2]), torch.tensor([0.5, 0.5, 0.5, logit]))
    with pytest.raises(DataError, match=message):
        sparse_vectors(found, torch.arange(3), Wanted(quantizer=Quantizer(scale)), (5, 3), NAMES)


def test_of_batches_without_any_entry_come_empty_rows() -> None:
    nothing = torch.empty(0, dtype=torch.long)
    found = sparse_vectors(
        Entries(nothing, nothing, torch.empty(0)), torch.arange(3), Wanted(0.1, 2, Quantizer()), (5, 3), NAMES
    )
    assert found.shape == (5, 3) and found.nnz == 0 and found.indptr.tolist() == [0] * 6


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (9, 4), elements=st.sampled_from([0.0, 0.5, 2.0])), st.permutations(range(9)), st.integers(0, 9))
def test_rows_of_blocks_come_back_in_order(dense: np.ndarray, order: list[int], first: int) -> None:
    dense[order[7:]] = 0
    parts = [order[:first], order[first:7]]
    found = in_order([(part, csr_matrix(dense[part])) for part in parts if part], csr_matrix((9, 4), dtype=np.float32))
    np.testing.assert_array_equal(found.toarray(), dense)
    assert found.dtype == np.float32 and found.has_canonical_format and found.indptr.dtype == np.int32


@pytest.mark.parametrize("head", ["streamed", "screened"])
@pytest.mark.parametrize("top_k", [None, 7])
@pytest.mark.parametrize("scale", [7.0, 100.0, 12345.0])
def test_a_model_gives_the_impacts_of_its_weights(head: Any, top_k: int | None, scale: float) -> None:
    csplade = CSPLADE((language_model(), tokenizer()), head=head, batch_size=2)
    texts = [*TEXTS, "", "  "]
    quantizer = Quantizer(scale)
    on_host = quantizer(csplade.encode_docs(texts, top_k=top_k, min_weight=quantizer.smallest_weight))
    found = csplade.doc_encoder(quantizer=quantizer, top_k=top_k).impacts(texts, texts)
    assert found.dtype == np.int32 and found.nnz
    np.testing.assert_array_equal(found.toarray(), on_host.toarray())
    np.testing.assert_array_equal(csplade.encode_docs(texts, top_k=top_k, quantizer=quantizer).toarray(), on_host.toarray())


def test_a_quantizer_of_ones_own_gets_weights() -> None:
    class Ceiling(Quantizer):
        def __call__(self, matrix: csr_matrix, names: Any = None) -> csr_matrix:
            assert matrix.dtype == np.float32
            return csr_matrix((np.ceil(matrix.data).astype(np.int32), matrix.indices, matrix.indptr), shape=matrix.shape)

    csplade = CSPLADE((language_model(), tokenizer()))
    found = csplade.doc_encoder(quantizer=Ceiling(0.001)).impacts(TEXTS, TEXTS)
    np.testing.assert_array_equal(found.toarray(), np.ceil(csplade.encode_docs(TEXTS).toarray()))


def test_a_model_whose_weights_are_too_large_is_refused_by_name() -> None:
    csplade = CSPLADE((language_model(), tokenizer()), batch_size=2)
    names = [f"document {i}" for i in range(len(TEXTS))]
    with pytest.raises(DataError, match=r"document \d has the weight"):
        csplade.doc_encoder(quantizer=Quantizer(1e10)).impacts(TEXTS, names)
