"""Mixing of channels: orthogonal, as scipy's Hadamard matrices say, and no less exact than promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from inside.model import mixed, rounding
from pyterrier_csplade.model import Screen

WIDTHS = [2, 3, 4, 8, 16, 64, 80, 256, 896]


@pytest.mark.parametrize("width", WIDTHS)
def test_products_stay_and_lengths_stay(width: int) -> None:
    matrix = mixed(torch.eye(width)).double().numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(width), atol=1e-6)
    rows = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(mixed(rows).numpy(), rows.double().numpy() @ matrix, atol=1e-5)


def test_every_channel_reaches_every_other_as_in_the_matrix_of_that_order() -> None:
    matrix = 16 * mixed(torch.eye(256)).numpy()
    assert sorted(map(tuple, matrix.T.tolist())) == sorted(map(tuple, hadamard(256).tolist()))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_rounding_error_is_bounded(width: int) -> None:
    matrix = mixed(torch.eye(width)).double().numpy()
    generator = torch.Generator().manual_seed(1)
    rows = torch.cat([torch.randn(200, width, generator=generator), torch.rand(200, width, generator=generator) ** 9])
    exact = rows.double().numpy() @ matrix
    errors = np.linalg.norm(mixed(rows).double().numpy() - exact, axis=1)
    assert np.all(errors <= rounding(width) * np.linalg.norm(exact, axis=1))
    assert rounding(width) < 1e-5, "or the bound of the screen would suffer"


def looseness(states: torch.Tensor, weight: torch.Tensor) -> float:
    """How far the bounds of the screen are above the logits, relative to the norms."""
    gaps = Screen(weight).bounds(states) - (states @ weight.T).amax(dim=1)
    return float((gaps / states.norm(dim=2).amax(dim=1, keepdim=True) / weight.norm(dim=1)).mean())


@pytest.mark.parametrize("channels", [[7], [7, 9, 30, 77]])
def test_large_channels_do_not_loosen_the_bound_of_the_screen(channels: list[int]) -> None:
    """Hidden states as real models have them: channels 50 times as large, which the head answers to as little more."""
    generator = torch.Generator().manual_seed(2)
    states, weight = torch.randn(3, 40, 256, generator=generator), torch.randn(500, 256, generator=generator)
    plain = looseness(states, weight)
    states[:, :, channels] *= 50
    weight[:, channels] /= 50
    assert looseness(states, weight) < plain, "2.5 times that, were channels not mixed"
