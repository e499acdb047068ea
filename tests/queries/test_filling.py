"""How tables are filled, against hand-worked values and another solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_matrix

from inside.queries import mean_weights, nonnegative_ridge, own_weight
from pyterrier_csplade import ConfigError
from pyterrier_csplade.queries import Filling, fill

#: Three queries over four terms: "a b", "a c", "a"; the teacher adds d to a.
TOKENS = csr_matrix([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=np.float32)
VECTORS = csr_matrix([[0.5, 2, 0, 1], [0.5, 0, 0, 1], [2, 0, 0, 1]], dtype=np.float32)


def test_mean_weights_by_hand() -> None:
    # a: (0.5 + 0.5 + 2 + 2 * 3) / (3 + 2); b: (2 + 6) / 3; c: 6 / 3; d never occurs.
    assert mean_weights(TOKENS, VECTORS, prior=3.0, strength=2.0).tolist() == pytest.approx([9 / 5, 8 / 3, 2, 3])


def test_own_weight_by_hand() -> None:
    assert own_weight(TOKENS, VECTORS) == pytest.approx((0.5 + 2 + 0.5 + 2) / 4)
    assert own_weight(TOKENS, csr_matrix((3, 4), dtype=np.float32)) == 1


def test_counts_have_no_expansion() -> None:
    weights, expansion = fill(TOKENS, VECTORS, Filling(kind="counts", ridge=2.0))
    assert weights.tolist() == pytest.approx(mean_weights(TOKENS, VECTORS, 1.25, 2.0).tolist())
    assert expansion.nnz == 0


def reference(tokens: np.ndarray, vectors: np.ndarray, prior: float, strength: float) -> np.ndarray:
    """Non-negative ridge by Lawson and Hanson's algorithm on the matrix with the prior as further rows."""
    size = tokens.shape[1]
    below = np.sqrt(strength) * np.eye(size)
    found = np.empty((size, size))
    for term in range(size):
        target = np.concatenate([vectors[:, term], below[:, term] * prior])
        found[:, term] = nnls(np.vstack([tokens, below]), target)[0]
    return found


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_ridge_against_another_solver(strength: float, counts: bool) -> None:
    generator = np.random.default_rng(3)
    tokens = (generator.random((60, 14)) < 0.25) * (generator.integers(1, 4, (60, 14)) if counts else 1)
    tokens[:, 13] = 0  # a term that no query holds
    vectors = random_matrix(60, 14, density=0.5, random_state=4).toarray() * 3
    expected = reference(tokens.astype(float), vectors, 1.5, strength)
    expected[13, 13] = 0  # the fill sets it to the prior
    every = nonnegative_ridge(csr_matrix(tokens, dtype=np.float32), csr_matrix(vectors), 1.5, strength, 0.0).toarray()
    assert np.abs(every - expected).max() < 0.01
    # Screening leaves out entries only, and those that matter to none of the kept ones hardly change them.
    kept = nonnegative_ridge(csr_matrix(tokens, dtype=np.float32), csr_matrix(vectors), 1.5, strength, 0.4).toarray()
    assert (kept[kept > 0] >= 0.4).all()
    assert (expected[kept == 0] < 0.5).all() and (kept > 0).sum() < (every > 0).sum()


def test_screening_leaves_out_no_entry_that_reaches_the_threshold() -> None:
    generator = np.random.default_rng(5)
    tokens = (generator.random((40, 10)) < 0.3).astype(float)
    vectors = random_matrix(40, 10, density=0.6, random_state=6).toarray()
    expected = reference(tokens, vectors, 1.0, 1.0)
    bound = (tokens.T @ vectors + np.eye(10)) / (tokens.sum(0) + 1)[:, None]
    assert (expected <= bound + 1e-9).all()


def test_rows_keep_the_heaviest_entries_and_unseen_tokens_their_prior() -> None:
    weights, expansion = fill(TOKENS, VECTORS, Filling(entries=1, threshold=0.1, ridge=1e-6))
    expected = reference(TOKENS.toarray().astype(float), VECTORS.toarray().astype(float), 1.25, 1e-6)
    assert weights[:3] == pytest.approx(np.diag(expected)[:3], abs=0.02)
    assert weights[3] == pytest.approx(1.25)
    assert expansion.toarray()[0, 3] == pytest.approx(1, abs=0.02) and expansion.getnnz(axis=1).max() == 1


def test_an_unseen_token_adds_its_common_spelling() -> None:
    weights, expansion = fill(TOKENS, VECTORS, Filling(), {3: 1, 0: 1})
    assert expansion[3, 1] == weights[3] == pytest.approx(1.25) and expansion[0, 1] == 0


def test_queries_without_any_term() -> None:
    weights, expansion = fill(csr_matrix((2, 3)), csr_matrix((2, 3)), Filling())
    assert weights.tolist() == [1, 1, 1] and expansion.nnz == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kind": "magic"}, "kind must be one of ridge, counts, found 'magic'"),
        ({"threshold": -1}, "threshold must be a finite number of at least 0, found -1"),
        ({"ridge": 0}, "ridge must be a finite number of at least 1e-06, found 0"),
        ({"ridge": float("nan")}, "ridge must be a finite number"),
    ],
)
def test_settings_that_are_wrong(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Filling(**setting)


def test_entries_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="entries must be a whole number of at least 1, found 0"):
        Filling(entries=0)
