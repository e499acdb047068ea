"""The loss of the adaptation phase, computed from the logits of all positions: an independent reference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def adaptation_loss(logits: Tensor, input_ids: Tensor, relu_weight: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """L_Adapt = L_CLM(H) + lambda_ReLU * L_ReLU, where L_ReLU is L_CLM on log(1 + ReLU(H)) (paper, Eq. 2 and 3).

    Args:
        logits: Scores H of the vocabulary at each position, [batch, length, vocabulary].
        input_ids: The tokens, [batch, length].
        relu_weight: lambda_ReLU; 0 skips the second term.

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
