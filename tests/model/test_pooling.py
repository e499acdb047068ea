from __future__ import annotations

import numpy as np
import pytest
import torch

from inside.model import head as _head
from pyterrier_csplade.model import activate, max_pool_logits


def naive(hidden: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Eq. 1 as it stands: all logits, then the maximum, then log(1 + ReLU)."""
    logits = (hidden @ weight.T).masked_fill(~mask[..., None], -1e30)
    return torch.log1p(torch.relu(logits.amax(dim=1)))


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(4, 7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(23, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(4, 7, generator=generator) > 0.4
    mask[2] = False
    return hidden, weight, mask


@pytest.mark.parametrize("block", [1, 60, 10**6])
def test_equals_numpy(inputs: tuple[torch.Tensor, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_head._LOGITS_IN_FLIGHT, "cpu", block)
    monkeypatch.setitem(_head._ALIGNED, "cpu", 1)
    hidden, weight, mask = inputs
    found = activate(max_pool_logits(hidden, weight, mask)).detach().numpy()
    for row in range(4):
        states = hidden.detach().numpy()[row][mask[row].numpy()]
        logits = states @ weight.detach().numpy().T
        expected = np.log1p(np.maximum(logits.max(axis=0), 0)) if len(states) else np.zeros(23)
        np.testing.assert_allclose(found[row], expected, rtol=1e-6)


@pytest.mark.parametrize("block", [1, 60, 10**6])
def test_gradient_is_that_of_the_naive_graph(
    inputs: tuple[torch.Tensor, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_head._LOGITS_IN_FLIGHT, "cpu", block)
    monkeypatch.setitem(_head._ALIGNED, "cpu", 1)
    hidden, weight, mask = inputs
    direction = torch.randn(4, 23, generator=torch.Generator().manual_seed(4))
    found = torch.autograd.grad(activate(max_pool_logits(hidden, weight, mask)), (hidden, weight), direction)
    expected = torch.autograd.grad(naive(hidden, weight, mask), (hidden, weight), direction.double())
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_gets_no_gradient(inputs: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, mask = inputs
    torch.autograd.backward(activate(max_pool_logits(hidden, weight.detach(), mask)).sum())
    assert hidden.grad is not None
    assert weight.grad is None


def test_masked_positions_change_nothing(inputs: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, mask = inputs
    changed = torch.where(mask[..., None], hidden, torch.full_like(hidden, 1e6))
    assert torch.equal(max_pool_logits(hidden, weight, mask), max_pool_logits(changed, weight, mask))


def test_rows_without_positions_weigh_nothing() -> None:
    hidden, weight = torch.ones(2, 3, 4), torch.ones(5, 4)
    assert activate(max_pool_logits(hidden, weight, torch.zeros(2, 3, dtype=torch.bool))).eq(0).all()


def test_activation_is_exact_near_zero() -> None:
    weights = activate(torch.tensor([-1.0, 0.0, 1e-4, 3.0], dtype=torch.bfloat16).float())
    np.testing.assert_allclose(weights, np.log1p([0, 0, float(torch.tensor(1e-4, dtype=torch.bfloat16)), 3]), rtol=1e-6)


def test_logits_for_every_position_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = torch.Tensor.amax

    def spy(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, self.numel())
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setitem(_head._LOGITS_IN_FLIGHT, "cpu", 4096)
    monkeypatch.setattr(torch.Tensor, "amax", spy)
    with torch.no_grad():
        max_pool_logits(torch.randn(8, 16, 4), torch.randn(1000, 4), torch.ones(8, 16, dtype=torch.bool))
    assert 0 < largest <= 4096


def test_bfloat16_autocast_keeps_float32_results() -> None:
    hidden, weight, mask = torch.randn(2, 3, 8), torch.randn(11, 8), torch.ones(2, 3, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = max_pool_logits(hidden, weight, mask)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, (hidden @ weight.T).amax(1), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("over_neighbours", [False, True])
@pytest.mark.parametrize("with_winners", [False, True])
def test_both_orders_of_the_product_give_the_same(
    monkeypatch: pytest.MonkeyPatch, with_winners: bool, over_neighbours: bool
) -> None:
    """Positions before tokens, as on an accelerator, and tokens before positions, as on a CPU; in several blocks."""
    monkeypatch.setitem(_head._LOGITS_IN_FLIGHT, "cpu", 4096)
    monkeypatch.setattr(_head, "_over_neighbours", lambda states, with_winners: over_neighbours)
    states, weight = torch.randn(3, 11, 8), torch.randn(700, 8)
    logits = np.einsum("bpw,tw->bpt", states.double().numpy(), weight.double().numpy())
    pooled, winners = _head._maxima(states, weight, with_winners=with_winners)
    np.testing.assert_allclose(pooled.numpy(), logits.max(axis=1), rtol=1e-5, atol=1e-5)
    if winners is None:
        assert not with_winners
    else:
        np.testing.assert_array_equal(winners.numpy(), logits.argmax(axis=1))
