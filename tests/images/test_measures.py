"""Measures of pictures: hand-worked values, and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random

from inside.images import measures

PICTURES = csr_matrix(np.array([[3, 1, 0, 0], [2, 0, 5, 0], [4, 0, 0, 0]]))
QUERIES = csr_matrix(np.array([[1.0, 2.0, 0, 0], [0, 0, 1.0, 1.0], [0, 1.0, 0, 0]]))


def test_co_activation_longest_list_and_flops_by_hand() -> None:
    # Document frequencies 3, 1, 1, 0 in three pictures; query frequencies 1, 2, 1, 1.
    assert measures.co_activation(PICTURES) == pytest.approx((9 + 1 + 1) / (3 * 5))
    assert measures.longest_list(PICTURES) == 1
    assert measures.flops(QUERIES, PICTURES) == pytest.approx((3 * 1 + 1 * 2 + 1 * 1) / 9)
    everywhere = csr_matrix(np.ones((4, 3)))
    assert measures.co_activation(everywhere) == 1 and measures.co_activation(csr_matrix((4, 3))) == 0


def test_semantic_deviation_by_hand() -> None:
    captions = csr_matrix(np.array([[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]))
    # Strangers: term 1 of two; term 0 of two; the only term.
    assert measures.semantic_deviation(PICTURES, captions) == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert measures.semantic_deviation(csr_matrix((3, 4)), captions) == 0
    many = csr_matrix(np.arange(1, 13)[None].astype(float))
    known = csr_matrix(np.array([[1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]]))  # the two weakest of twelve do not count
    assert measures.semantic_deviation(many, known) == pytest.approx(0.9)


def test_exact_ratio_by_hand() -> None:
    own = csr_matrix(np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]))
    # Scores 3 + 2 with 3 exact; 5 with 0 exact; the third query has a score of 0.
    assert measures.exact_ratio(QUERIES, PICTURES, own, [0, 1, 2]) == pytest.approx((3 / 5 + 0) / 2)


def test_ranks_agree_with_sorting() -> None:
    queries, pictures = (random(300, 20, 0.2, "csr", random_state=seed) for seed in (1, 2))
    relevant = np.random.default_rng(3).integers(0, 300, 300)
    scores = (queries @ pictures.T).toarray()
    expected = [
        list(np.argsort(-row, kind="stable")).index(place) + 1 if row[place] > 0 else np.inf
        for row, place in zip(scores, relevant)
    ]
    assert measures.relevant_ranks(queries, pictures, relevant).tolist() == expected


def test_retrieval_measures_by_hand() -> None:
    found = measures.retrieval_measures(np.array([1, 4, 50, np.inf]))
    assert found == {"R@1": 0.25, "R@10": 0.5, "R@100": 0.75, "RR@10": pytest.approx((1 + 0.25) / 4)}
