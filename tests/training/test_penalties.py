"""Distillation losses and regularisers against numpy, hand-worked values and sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inside.training import (
    ContrastiveObjective,
    DocumentFrequencies,
    Labels,
    anti_zero,
    df_factor,
    df_flops,
    flops,
    kl_loss,
    l0_mask,
    l1,
    margin_mse_loss,
)
from pyterrier_csplade import ConfigError
from support.training_runs import contrastive_config

RNG = np.random.default_rng(3)


def sparse(rows: int, terms: int) -> torch.Tensor:
    return torch.tensor(np.maximum(RNG.normal(size=(rows, terms)), 0))


def softmax(values: Any) -> Any:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


# Two queries: the first owns passages 0, 2 and 3 (2 is its positive), the second owns 1 and 4 (1 is its positive).
SCORES = torch.tensor([[1.0, 9.0, 3.0, 2.0, 9.0], [9.0, 4.0, 9.0, 9.0, 1.5]], dtype=torch.float64)
TEACHER = torch.tensor([0.5, 7.0, 4.0, 1.0, 2.0])
LABELS = Labels(
    targets=torch.tensor([2, 1]),
    owners=torch.tensor([0, 1, 0, 0, 1]),
    texts=torch.arange(5),
    relevant_queries=torch.tensor([0, 1, 1]),
    relevant_texts=torch.tensor([2, 1, 3]),
    teacher=TEACHER,
)


@pytest.mark.parametrize(("student", "teacher"), [(1.0, 1.0), (4.0, 0.5)])
def test_kl_equals_numpy(student: float, teacher: float) -> None:
    expected = []
    for query, own in enumerate(([0, 2, 3], [1, 4])):
        p, q = softmax(TEACHER.numpy()[own] / teacher), softmax(SCORES[query].numpy()[own] / student)
        expected.append((p * np.log(p / q)).sum())
    found = kl_loss(SCORES, TEACHER, LABELS.own, student, teacher)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-6)


def test_margin_mse_by_hand() -> None:
    # margins of the student: 3 - 1, 3 - 2; 4 - 1.5. Of the teacher: 3.5, 3; 5.
    expected = ((2 - 3.5) ** 2 + (1 - 3) ** 2 + (2.5 - 5) ** 2) / 3
    assert float(margin_mse_loss(SCORES, TEACHER, LABELS.own, LABELS.targets)) == pytest.approx(expected)
    half = margin_mse_loss(SCORES, TEACHER, LABELS.own, LABELS.targets, 2.0, 2.0)
    assert float(half) == pytest.approx(expected / 4)


def test_distillation_without_negatives_is_0() -> None:
    own = torch.tensor([[True, False], [False, True]])
    scores, teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), torch.tensor([1.0, 2.0])
    loss = kl_loss(scores, teacher, own) + margin_mse_loss(scores, teacher, own, torch.tensor([0, 1]))
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, scores)[0].any()


def test_same_as_sentence_transformers() -> None:
    losses = pytest.importorskip("sentence_transformers.sparse_encoder.losses")
    queries, *passages = (sparse(4, 30) for _ in range(4))  # one positive and two negatives each
    teacher = torch.tensor(RNG.normal(size=(4, 3)))
    scores, own = queries @ torch.cat(passages).T, torch.eye(4, dtype=torch.bool).repeat(1, 3)
    by_passage, targets = teacher.T.flatten(), torch.arange(4)
    theirs = losses.SparseMarginMSELoss(None).compute_loss_from_embeddings([queries, *passages], teacher)
    assert float(margin_mse_loss(scores, by_passage, own, targets)) == pytest.approx(float(theirs), rel=1e-10)
    theirs = losses.SparseDistillKLDivLoss(None, temperature=2.0).compute_loss_from_embeddings([queries, *passages], teacher)
    found = kl_loss(scores, by_passage, own, 2.0, 2.0)
    assert float(found) * 2.0**2 == pytest.approx(float(theirs), rel=1e-6)
    theirs = losses.FlopsLoss(None, threshold=15).compute_loss_from_embeddings(queries)
    assert 0 < float(flops(l0_mask(queries, 15))) < float(flops(queries))
    assert float(flops(l0_mask(queries, 15))) == pytest.approx(float(theirs), rel=1e-10)


def test_l1_and_anti_zero_by_hand() -> None:
    first, second = torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([[0.5, 0.0]])
    assert float(l1(first)) == 4
    assert float(anti_zero(first, second)) == pytest.approx(1 / 64 + 1 / 0.25)
    empty = torch.zeros(2, 2, requires_grad=True)
    assert torch.isfinite(anti_zero(empty, second))
    assert torch.isfinite(torch.autograd.grad(anti_zero(empty, second), empty)[0]).all()


def test_df_flops_equals_the_papers_formula() -> None:
    weights, shares = sparse(5, 6), torch.tensor([0.0, 0.01, 0.1, 0.2, 0.7, 1.0], dtype=torch.float64)
    factors = [0.0] + [1 / (1 + (x ** (np.log(2) / np.log(0.1)) - 1) ** 10) for x in shares.tolist()[1:]]
    assert factors[2] == pytest.approx(0.5) and factors[5] == 1
    assert df_factor(shares).tolist() == pytest.approx(factors)
    expected = sum((factor * weights[:, term].mean().item()) ** 2 for term, factor in enumerate(factors))
    assert float(df_flops(weights, shares)) == pytest.approx(expected)
    assert float(df_flops(weights, torch.ones(6))) == pytest.approx(float(flops(weights)))


def test_document_frequencies_are_those_of_the_last_stretch() -> None:
    frequencies, same = DocumentFrequencies(2), DocumentFrequencies(2)
    batches = [(sparse(4, 10) > 0.5).double() for _ in range(5)]
    for number, batch in enumerate(batches):
        if number == 3:  # in the middle of a stretch
            same.load_state_dict({name: values.clone() for name, values in frequencies.state_dict().items()})
        if number >= 3:
            same.add(batch)
        expected = (
            torch.ones(10) if number < 2 else torch.cat(batches[number // 2 * 2 - 2 : number // 2 * 2]).float().mean(dim=0)
        )
        torch.testing.assert_close(frequencies.shares(batch), expected)
        frequencies.add(batch)
    torch.testing.assert_close(same.shares(batches[0]), frequencies.shares(batches[0]))
    torch.testing.assert_close(frequencies.shares(batches[0]), torch.cat(batches[2:4]).float().mean(dim=0))


def test_objective_adds_what_the_configuration_weighs() -> None:
    queries, passages = sparse(2, 20), sparse(5, 20)
    config = contrastive_config(
        Path(), Path(), temperature=3.0, infonce_weight=0.5, kl_weight=0.25, margin_mse_weight=0.125, teacher_temperature=2.0,
        query_regularizer="l1", document_regularizer="df_flops", query_l0_threshold=9, anti_zero_weight=7.0,
    )  # fmt: skip
    loss, figures = ContrastiveObjective(config)(queries, passages, LABELS, (0.3, 0.6))
    scores = (queries @ passages.T).numpy() / 3
    nce = [-np.log(softmax(scores[0])[2]), -np.log(softmax(scores[1][[0, 1, 2, 4]])[1])]  # 3 is relevant to the second, too
    kept = queries * ((queries > 0).sum(dim=1) > 9)[:, None]
    temperatures = (3.0, 2.0)
    expected = (
        0.5 * np.mean(nce)
        + 0.25 * kl_loss(queries @ passages.T, TEACHER, LABELS.own, *temperatures)
        + 0.125 * margin_mse_loss(queries @ passages.T, TEACHER, LABELS.own, LABELS.targets, *temperatures)
        + 0.3 * kept.sum() / 2
        + 0.6 * flops(passages)
        + 7 * (1 / queries.sum() ** 2 + 1 / passages.sum() ** 2)
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(figures["rank_loss"]) == pytest.approx(np.mean(nce))
    assert float(figures["flops_query"]) == pytest.approx(float(flops(queries)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"infonce_weight": 0}, "are all 0: set one of them"),
        ({"kl_weight": -1}, "kl_weight must not be negative"),
        ({"df_cutoff": 1.0}, "df_cutoff must be above 0 and below 1"),
        ({"teacher_temperature": 0}, "teacher_temperature must be positive"),
    ],
)
def test_bad_weights(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contrastive_config(Path(), Path(), **settings)
