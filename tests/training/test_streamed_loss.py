"""The streamed loss of the adaptation phase against the naive graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inside.training import Predictor, streamed_loss, streamed_prediction_loss
from support import models
from support.reference_losses import prediction_loss


@pytest.mark.parametrize("relu_weight", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("name", ["plain", "bias", "capped"])
def test_loss_and_gradients_are_those_of_the_naive_graph(
    monkeypatch: pytest.MonkeyPatch, relu_weight: float, size: int, name: str
) -> None:
    monkeypatch.setattr(streamed_loss, "LOGITS_IN_FLIGHT", {"cpu": size * 13})
    torch.manual_seed(1)
    hidden, weight = torch.randn(8, 5, requires_grad=True), torch.randn(13, 5, requires_grad=True)
    bias = torch.randn(13, requires_grad=True) if name == "bias" else None
    finish = (lambda logits: torch.tanh(logits / 2) * 2) if name == "capped" else None
    targets = torch.randint(13, (8,))
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    found, figures = streamed_prediction_loss(hidden, weight, targets, relu_weight, bias, finish)
    gradients = torch.autograd.grad(found * 3, inputs)
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    logits = logits if finish is None else finish(logits)
    loss, clm, relu = prediction_loss(logits[None], targets[None], relu_weight)
    for first, second in zip(gradients, torch.autograd.grad(loss * 3, inputs)):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert [float(figures[key]) for key in ("clm", "relu")] == pytest.approx(
        [float(term.detach()) for term in (clm, relu)], rel=1e-5
    )
    assert float(figures["positive_logits"]) == pytest.approx(float((logits > 0).float().mean()))
    live = logits.gather(1, targets[:, None]) > 0
    assert float(figures["live_targets"]) == pytest.approx(float(live.float().mean()))


def test_a_frozen_head_has_no_gradient() -> None:
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(7, 3)
    streamed_prediction_loss(hidden, weight, torch.randint(7, (4,)), 1.0)[0].backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None and hidden.grad.any() and weight.grad is None
    assert not streamed_prediction_loss(hidden.detach(), weight, torch.randint(7, (4,)), 1.0)[0].requires_grad


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_every_architecture(architecture: str) -> None:
    model = models.language_model(architecture, attn_implementation="eager")
    ids = torch.randint(3, len(models.tokenizer()), (2, 9))
    positions = torch.tensor([0, 3, 4, 7])
    found, _ = Predictor(model, 1.0)(ids, positions, ids[:, positions + 1])
    found.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = prediction_loss(model(input_ids=ids, use_cache=False).logits[:, positions], ids[:, positions + 1], 1.0)[0]
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    scale = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5 * scale)


def test_constants_of_llama_3_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All logits at or below 0 but the target's: log(V - 1 + 1 + x) - log(1 + x), with V = 128,256."""
    hidden, targets = torch.eye(2), torch.tensor([17, 128_255])
    weight = torch.full((128_256, 2), -2.0)
    weight[17, 0] = weight[128_255, 1] = 5.0
    figures: Any = streamed_prediction_loss(hidden, weight, targets, 1.0)[1]
    assert float(figures["relu"]) == pytest.approx(9.97, abs=0.006)
    assert float(figures["live_targets"]) == 1
