"""The training objectives of both phases."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def adaptation_loss(logits: Tensor, input_ids: Tensor, relu_weight: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """L_Adapt = L_CLM(H) + lambda_ReLU * L_ReLU, where L_ReLU is L_CLM on log(1 + ReLU(H)) (paper, Eq. 2 and 3).

    L_CLM is the mean cross-entropy of every token given those before it. Both terms come from the logits of one forward pass.
    L_ReLU is near ln |V| at first and has a high floor, since log(1 + ReLU(H)) grows slowly.

    Args:
        logits: Scores H of the vocabulary at each position, [batch, length, vocabulary].
        input_ids: The tokens, [batch, length].
        relu_weight: lambda_ReLU (paper: 1); 0 skips the second term.

    Returns:
        The loss, and its terms L_CLM and L_ReLU.
    """
    return prediction_loss(logits[:, :-1], input_ids[:, 1:], relu_weight)


def prediction_loss(logits: Tensor, targets: Tensor, relu_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """``adaptation_loss`` of any positions: ``targets``, [batch, positions], is what each of ``logits`` should predict."""
    predictions, labels = logits.flatten(0, 1), targets.flatten()
    clm = cross_entropy(predictions, labels)
    if not relu_weight:
        return clm, clm, torch.zeros_like(clm)
    relu = cross_entropy(torch.log1p(torch.relu(predictions)), labels)
    return clm + relu_weight * relu, clm, relu


def ranking_loss(scores: Tensor, targets: Tensor, excluded: Tensor, temperature: float = 1.0) -> Tensor:
    """InfoNCE, L_rank of the paper: mean cross-entropy of each query's positive among all passages of the batch.

    Args:
        scores: Inner products, [queries, passages].
        targets: The passage that is each query's positive, int64 [queries].
        excluded: Passages that are no negatives of a query, bool [queries, passages].
        temperature: Divides the scores (not in the paper; 1).
    """
    return cross_entropy((scores / temperature).masked_fill(excluded, float("-inf")), targets)


def accuracy(scores: Tensor, targets: Tensor, excluded: Tensor) -> Tensor:
    """Share of the queries whose positive has the highest score; arguments as in ``ranking_loss``."""
    return (scores.masked_fill(excluded, float("-inf")).argmax(dim=1) == targets).float().mean()


def kl_loss(scores: Tensor, teacher: Tensor, own: Tensor, temperature: float = 1.0, teacher_temperature: float = 1.0) -> Tensor:
    """Mean Kullback-Leibler divergence of each query's softmax over its own passages from that of a teacher.

    Args:
        scores: Inner products, [queries, passages].
        teacher: A teacher's score of each passage for its query, [passages].
        own: The passages that were drawn for a query, bool [queries, passages].
        temperature: Divides the scores. The loss is not multiplied by its square, as some have it: weigh it instead.
        teacher_temperature: Divides the teacher's scores.
    """
    minus_infinity = torch.finfo(scores.dtype).min
    student = torch.log_softmax((scores / temperature).masked_fill(~own, minus_infinity), dim=1)
    target = (teacher.to(scores.dtype) / teacher_temperature).expand_as(scores).masked_fill(~own, minus_infinity)
    target = torch.log_softmax(target, dim=1)
    return (target.exp() * (target - student)).masked_fill(~own, 0).sum(dim=1).mean()


def margin_mse_loss(
    scores: Tensor,
    teacher: Tensor,
    own: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """Mean squared difference between margins, positive minus negative, and those of a teacher (arXiv 2010.02666).

    The mean runs over all pairs of a query and a hard negative of its own; arguments as in ``kl_loss`` and ``ranking_loss``.
    """
    rows = torch.arange(len(scores), device=scores.device)
    student = scores / temperature
    wanted = teacher.to(scores.dtype) / teacher_temperature
    difference = (student[rows, targets, None] - student) - (wanted[targets, None] - wanted[None, :])
    negatives = own.clone()
    negatives[rows, targets] = False
    return difference.masked_fill(~negatives, 0).square().sum() / negatives.sum().clamp(min=1)


def ramped(weight: float, step: int, ramp: float) -> float:
    """Quadratic growth of a regulariser's weight, ``weight * (step / ramp) ** 2``, then ``weight`` (Formal et al., 2021).

    Args:
        weight: What it grows to.
        step: Optimizer steps done; counting these makes the ramp independent of gradient accumulation and of resuming.
        ramp: Optimizer steps of growth; 0: none.
    """
    return weight * min(1.0, step / ramp) ** 2 if ramp else weight
