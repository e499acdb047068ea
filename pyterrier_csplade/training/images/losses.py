"""The losses of an image head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from pyterrier_csplade.training.losses import ranking_loss


def both_ways(scores: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Compute the mean of InfoNCE from captions to pictures and from pictures to captions.

    Args:
        scores: Inner products, [captions, pictures], with pair i on the diagonal.
        same: Number of each caption. Pictures of equal captions are not negatives of each other.
        temperature: Divisor of the scores.
    """
    targets = torch.arange(len(scores), device=scores.device)
    excluded = (same[:, None] == same[None, :]) & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    forth, back = (ranking_loss(s, targets, excluded, temperature) for s in (scores, scores.T))
    return (forth + back) / 2


def distillation(scores: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float) -> Tensor:
    """Compute the mean cross-entropy with the softmax of a teacher's scores in both directions (arXiv 2402.17535).

    Args:
        scores: Inner products, [captions, pictures].
        teacher: The teacher's scores, [captions, pictures].
        temperature: Divisor of the scores.
        teacher_temperature: Divisor of the teacher's scores.
    """
    forth, back = (
        cross_entropy(s / temperature, torch.softmax(t / teacher_temperature, dim=1))
        for s, t in ((scores, teacher), (scores.T, teacher.T))
    )
    return (forth + back) / 2


def gate_loss(logits: Tensor, weights: Tensor, captions: Tensor, sharpness: float, smoothing: float) -> Tensor:
    """Compute caption-gated token supervision (V-SPLADE), which rewards terms of the caption that the picture already has.

    With h the logits of a picture, p = log(1 + ReLU(h)), and c the text model's vector of the caption on its own words::

        o = (p + smoothing * mean(p)) * c, normalised, to the power 1 / sharpness, normalised; without a gradient
        L = - sum over terms of o * log sigmoid(h)

    averaged over the pictures. For a picture without any weight, o comes from the caption's weights, which revives it.

    Args:
        logits: h, [pictures, terms].
        weights: p, [pictures, terms].
        captions: c, [pictures, terms].
        sharpness: As above.
        smoothing: As above.
    """
    with torch.no_grad():
        mean = weights.mean(dim=1, keepdim=True)
        believed = (weights + smoothing * mean) * captions
        gate = _normalised(torch.where(believed.sum(dim=1, keepdim=True) > 0, believed, captions))
        gate = _normalised(gate.pow(1 / sharpness))
    return -(gate * logsigmoid(logits)).sum(dim=1).mean()


def _normalised(values: Tensor) -> Tensor:
    return values / values.sum(dim=1, keepdim=True).clamp(min=1e-12)
