"""Lexical grounding, against values worked out by hand and a naive implementation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade.vectors import Grounding, lexical_grounding


def test_against_values_worked_out_by_hand() -> None:
    vectors = csr_matrix(
        [
            [4.0, 0.0, 1.0, 3.0, 2.0],  # own 0, 1, 2: the heaviest three are 0, 3, 4: 1 of 3; weight 5 of 10; live 2 of 3
            [0.0, 0.0, 0.0, 0.0, 0.0],  # own 3: an empty vector
            [1.0, 1.0, 1.0, 0.0, 0.0],  # own 0, 4: of equal weights the first two, 0 and 1: 1 of 2; weight 1 of 3; live 1 of 2
            [9.0, 9.0, 9.0, 9.0, 9.0],  # no own token: left out
            [0.0, 5.0, 0.0, 0.0, 0.0],  # own 0, 1: fewer terms than own tokens: 1 of 2; weight 5 of 5; live 1 of 2
        ]
    )
    own = csr_matrix([[2, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 3], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]])
    found = lexical_grounding(vectors, own)
    assert found.top == pytest.approx((1 / 3 + 0 + 1 / 2 + 1 / 2) / 4)
    assert found.weight == pytest.approx((5 / 10 + 0 + 1 / 3 + 1) / 4)
    assert found.live == pytest.approx((2 / 3 + 0 + 1 / 2 + 1 / 2) / 4)
    assert found.figures("query") == {
        "grounding_query": found.top,
        "own_weight_query": found.weight,
        "own_live_query": found.live,
    }


def test_against_a_naive_implementation() -> None:
    rng = np.random.default_rng(3)
    vectors = np.where(rng.random((20, 30)) < 0.4, rng.integers(1, 5, (20, 30)), 0)
    own = rng.random((20, 30)) < 0.2
    tops, weights, lives = [], [], []
    for vector, mine in zip(vectors, own):
        if not mine.any():
            continue
        k = int(mine.sum())
        heaviest = [c for c in np.argsort(-vector, kind="stable")[:k] if vector[c] > 0]
        tops.append(sum(mine[c] for c in heaviest) / k)
        weights.append(vector[mine].sum() / vector.sum())
        lives.append((vector[mine] > 0).mean())
    found = lexical_grounding(csr_matrix(vectors), csr_matrix(own))
    np.testing.assert_allclose([found.top, found.weight, found.live], [np.mean(tops), np.mean(weights), np.mean(lives)])


def test_texts_without_own_tokens_have_none() -> None:
    assert lexical_grounding(csr_matrix((2, 3)), csr_matrix((2, 3))) == Grounding(0.0, 0.0, 0.0)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shape of the vectors, \(2, 3\), found \(2, 4\)"):
        lexical_grounding(csr_matrix((2, 3)), csr_matrix((2, 4)))
