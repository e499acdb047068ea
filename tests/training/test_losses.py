"""The training objectives against numpy, hand-worked values and sentence-transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inside.training import accuracy, flops, ramped, ranking_loss
from support.reference_losses import adaptation_loss

RNG = np.random.default_rng(5)


def log_softmax(scores: Any) -> Any:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy(logits: Any, ids: Any) -> Any:
    """Next-token cross-entropy, position by position."""
    terms = []
    for sequence, tokens in zip(logits, ids):
        for position in range(len(tokens) - 1):
            terms.append(-log_softmax(sequence[position])[tokens[position + 1]])
    return np.mean(terms)


def sparse(rows: int, terms: int) -> Any:
    weights = RNG.normal(size=(rows, terms))
    return np.where(weights > 0, weights, 0)


# ---------------------------------------------------------------------- adaptation


@pytest.mark.parametrize("relu_weight", [1.0, 0.25, 0.0])
def test_adaptation_loss_equals_numpy(relu_weight: float) -> None:
    logits, ids = RNG.normal(scale=3, size=(3, 7, 11)), RNG.integers(0, 11, size=(3, 7))
    loss, clm, relu = adaptation_loss(torch.tensor(logits), torch.tensor(ids), relu_weight)
    expected_relu = cross_entropy(np.log(1 + np.maximum(logits, 0)), ids) if relu_weight else 0
    assert float(clm) == pytest.approx(cross_entropy(logits, ids), rel=1e-12)
    assert float(relu) == pytest.approx(expected_relu, rel=1e-12)
    assert float(loss) == pytest.approx(cross_entropy(logits, ids) + relu_weight * expected_relu, rel=1e-12)


@pytest.mark.parametrize(("logit", "expected"), [(0, 11.762), (5, 9.97), (10, 9.36), (20, 8.72), (50, 7.83)])
def test_floor_of_the_relu_term_with_the_vocabulary_of_llama_3(logit: float, expected: float) -> None:
    ids = torch.tensor([[3, 17, 128_255]])
    logits = torch.full((1, 3, 128_256), -2.0, dtype=torch.float64)
    logits[0, 0, 17] = logits[0, 1, 128_255] = logit
    by_hand = np.log(128_255 + (1 + logit)) - np.log(1 + logit)  # exp(log(1 + x)) = 1 + x; all others are exp(0)
    relu = adaptation_loss(logits, ids)[2]
    assert float(relu) == pytest.approx(by_hand, rel=1e-10)
    assert float(relu) == pytest.approx(expected, abs=0.006)


def test_relu_term_has_no_gradient_where_a_logit_is_not_positive() -> None:
    values = RNG.normal(size=(2, 4, 9))
    values[0, 0, 0] = 0.0
    logits = torch.tensor(values, requires_grad=True)
    ids = torch.tensor(RNG.integers(0, 9, size=(2, 4)))
    adaptation_loss(logits, ids)[2].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    gradient = logits.grad.numpy()
    assert not gradient[values <= 0].any()
    # (p - y) / (1 + H) where H > 0, a mean over the six predictions.
    weights = np.log(1 + np.maximum(values, 0))
    expected = np.exp(log_softmax(weights))
    for row, tokens in enumerate(ids.numpy()):
        for position in range(3):
            expected[row, position, tokens[position + 1]] -= 1
    expected = np.where(values > 0, expected / (1 + values), 0) / 6
    expected[:, -1] = 0
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_loss_of_certain_predictions_is_0() -> None:
    ids = torch.tensor([[2, 0, 1]])
    logits = torch.full((1, 3, 3), -1e4)
    logits[0, 0, 0] = logits[0, 1, 1] = 1e4
    assert float(adaptation_loss(logits, ids)[1]) == 0


# ---------------------------------------------------------------------- contrastive


@pytest.mark.parametrize("temperature", [1.0, 0.5, 20.0])
def test_ranking_loss_equals_numpy(temperature: float) -> None:
    scores, targets = RNG.normal(scale=4, size=(4, 10)), np.array([3, 0, 9, 3])
    excluded = np.zeros((4, 10), dtype=bool)
    excluded[0, 9] = excluded[1, [3, 4]] = True
    expected = []
    for row, target, left_out in zip(scores / temperature, targets, excluded):
        expected.append(np.log(np.exp(row[~left_out]).sum()) - row[target])
    found = ranking_loss(torch.tensor(scores), torch.tensor(targets), torch.tensor(excluded), temperature)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-12)


def test_accuracy_counts_positives_that_lead() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 1.0, 2.0]])
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert float(accuracy(scores, torch.tensor([1, 1]), nothing)) == 0.5
    assert float(accuracy(scores, torch.tensor([1, 1]), torch.tensor([[False] * 3, [False, False, True]]))) == 1.0


def test_flops_equals_numpy_and_hand_worked_value() -> None:
    weights = sparse(6, 20)
    expected = sum(np.abs(weights[:, term]).mean() ** 2 for term in range(20))
    assert float(flops(torch.tensor(weights))) == pytest.approx(expected, rel=1e-12)
    assert float(flops(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))) == 2**2 + 0.5**2


def test_gradient_of_flops_equals_finite_differences() -> None:
    weights = sparse(3, 5) + 0.1
    tensor = torch.tensor(weights, requires_grad=True)
    flops(tensor).backward()  # type: ignore[no-untyped-call]
    assert tensor.grad is not None
    for index in np.ndindex(weights.shape):
        steps = []
        for step in (1e-6, -1e-6):
            moved = weights.copy()
            moved[index] += step
            steps.append(np.square(moved.mean(axis=0)).sum())
        assert float(tensor.grad[index]) == pytest.approx((steps[0] - steps[1]) / 2e-6, rel=1e-6)


def test_ramp_is_quadratic_in_optimizer_steps() -> None:
    assert [ramped(0.5, step, 4) for step in (0, 1, 2, 3, 4, 5, 400)] == [0, 0.03125, 0.125, 0.28125, 0.5, 0.5, 0.5]
    assert ramped(0.5, 0, 0) == 0.5


def test_same_as_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sparse_encoder.losses")
    queries, positives, negatives = (torch.tensor(sparse(4, 30)) for _ in range(3))
    passages = torch.cat([positives, negatives])
    expected = losses.FlopsLoss(None).compute_loss_from_embeddings(passages)
    assert float(flops(passages)) == pytest.approx(float(expected), rel=1e-10)
    theirs = losses.SparseMultipleNegativesRankingLoss(None, scale=1.0)
    expected = theirs.compute_loss_from_embeddings([queries, positives, negatives], None)
    found = ranking_loss(queries @ passages.T, torch.arange(4), torch.zeros(4, 8, dtype=torch.bool))
    assert float(found) == pytest.approx(float(expected), rel=1e-10)
