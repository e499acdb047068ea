"""The loss of the adaptation phase, L_CLM and L_ReLU, computed without storing the logits of all positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Number of logits in a block: 32 MiB of float32, about the size of caches, and 256 MiB on an accelerator, where reading the
#: head for few positions takes longer than the product; our choice (not measured).
LOGITS_IN_FLIGHT = {"cpu": 2**23, "accelerator": 2**26}

Finish = Callable[[Tensor], Tensor]


def streamed_prediction_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    relu_weight: float,
    bias: Tensor | None = None,
    finish: Finish | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute L_Adapt and its gradient from hidden states, block by block.

    L_Adapt is L_CLM(H) + lambda_ReLU * L_ReLU, where L_CLM is the mean cross-entropy of every token given the tokens before it,
    and L_ReLU is the same on log(1 + ReLU(H)) (paper, Eq. 2 and 3). L_ReLU starts near ln |V| and stays high, since log(1 +
    ReLU(H)) grows slowly.

    Memory is O(positions x width), not O(positions x vocabulary). The gradient is computed together with the loss, so every
    logit is computed once. With H the logits of a position, y its target and S the sum of 1 + ReLU(H), L_ReLU is log S - log(1
    + ReLU(H_y)), because exp(log(1 + x)) = 1 + x; its gradient is 1 / S where H > 0, less 1 / (1 + H_y) at the target.

    Args:
        hidden: Last hidden states, [positions, width].
        weight: The LM head, [vocabulary, width].
        targets: The token that each position should predict, int64 [positions].
        relu_weight: lambda_ReLU of Eq. 2; 0 skips L_ReLU.
        bias: Bias of the LM head.
        finish: Function that the architecture applies to the logits.

    Returns:
        The loss; and the figures ``clm`` and ``relu`` (its terms), ``positive_logits`` (share of logits above 0), and
        ``live_targets`` (share of targets with a logit above 0).
    """
    if finish is not None and finish(probe := torch.ones(1)) is probe:
        finish = None  # the architecture leaves logits as they are
    loss, figures = _StreamedLoss.apply(hidden, weight, bias, targets, relu_weight, finish)
    return loss, dict(zip(("clm", "relu", "positive_logits", "live_targets"), figures.unbind()))


class _StreamedLoss(torch.autograd.Function):
    """The loss and its gradient in one pass over the positions."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        relu_weight: float,
        finish: Finish | None,
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad
        gradients = [
            torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and needed else None
            for tensor, needed in zip((hidden, weight, bias), wanted)
        ]
        sums = torch.zeros(4, dtype=torch.float32, device=hidden.device)
        in_flight = LOGITS_IN_FLIGHT["cpu" if hidden.device.type == "cpu" else "accelerator"]
        size = max(1, in_flight // len(weight))
        for start in range(0, len(hidden), size):
            states, labels = hidden[start : start + size], targets[start : start + size, None]
            raw = states @ weight.to(states.dtype).T
            raw = raw.float() if bias is None else raw.float() + bias.float()
            logits = raw if finish is None else _finished(raw, finish)
            gradient = _add_terms(logits.detach(), labels, relu_weight, sums)
            if finish is not None:
                (gradient,) = torch.autograd.grad(logits, raw, gradient)
            gradient = gradient / len(hidden)
            _add_gradients(gradients, gradient, states, weight, start)
        dtypes = (hidden.dtype, weight.dtype, hidden.dtype if bias is None else bias.dtype)
        ctx.save_for_backward(*(None if g is None else g.to(dtype) for g, dtype in zip(gradients, dtypes)))
        figures = sums / torch.tensor([len(hidden)] * 2 + [targets.numel() * len(weight), len(hidden)], device=sums.device)
        loss = figures[0] + relu_weight * figures[1]
        ctx.mark_non_differentiable(figures)
        return loss, figures

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if saved is None else saved * gradient.to(saved.dtype) for saved in ctx.saved_tensors)
        return *gradients, None, None, None


def _finished(raw: Tensor, finish: Finish) -> Tensor:
    with torch.enable_grad():
        return finish(raw.requires_grad_())


def _add_terms(logits: Tensor, labels: Tensor, relu_weight: float, sums: Tensor) -> Tensor:
    """Add the terms and counts of some positions to ``sums``; return the gradient of the loss with respect to their logits."""
    target = logits.gather(1, labels)
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    positive = logits > 0
    sums[0] += (normaliser - target).sum()
    sums[2] += positive.sum()
    sums[3] += (target > 0).sum()
    gradient = (logits - normaliser).exp_()
    at_target = -torch.ones_like(target)
    if relu_weight:
        target = target.relu()
        total = logits.relu().sum(dim=1, keepdim=True) + logits.shape[1]
        sums[1] += (total.log() - target.log1p()).sum()
        gradient += positive * (relu_weight / total)
        at_target -= (target > 0) * relu_weight / (1 + target)
    return gradient.scatter_add_(1, labels, at_target)


def _add_gradients(gradients: list[Tensor | None], gradient: Tensor, states: Tensor, weight: Tensor, start: int) -> None:
    of_hidden, of_weight, of_bias = gradients
    if of_hidden is not None:
        of_hidden[start : start + len(states)] = (gradient.to(states.dtype) @ weight.to(states.dtype)).float()
    if of_weight is not None:
        of_weight += (gradient.to(states.dtype).T @ states).float()
    if of_bias is not None:
        of_bias += gradient.sum(dim=0)
