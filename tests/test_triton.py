"""The Triton kernel, run by Triton's interpreter in a process of its own, against numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyterrier_csplade._head import fused_product, max_logits

CHECK = """
import numpy as np
import torch
from pyterrier_csplade._triton import max_logits

generator = torch.Generator().manual_seed(0)
for texts, positions, width, tokens in [(1, 1, 16, 1), (2, 70, 80, 130), (3, 64, 64, 128), (2, 5, 65, 300)]:
    states = torch.randn(texts, positions, width, generator=generator)
    weight = torch.randn(tokens, width, generator=generator)
    expected = np.einsum("bpw,tw->bpt", states.double().numpy(), weight.double().numpy()).max(axis=1)
    np.testing.assert_allclose(max_logits(states, weight).numpy(), expected, rtol=1e-5, atol=1e-5)
    with np.errstate(all="ignore"):
        negative = max_logits(-states.abs(), weight.abs())
    assert (negative < 0).all(), "padding of tiles takes no part in the maximum"
states[0, 1, 2] = float("nan")
assert max_logits(states, weight).isnan().all(dim=1).tolist() == [True, False]
print("equal")
"""


def test_the_kernel_computes_the_maxima() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "equal", done.stderr


def fail(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no kernel image\nmore")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (None, "import of .* halted"),
        (fail, "no kernel image"),
        (lambda s, w: max_logits(s, w) + 1, "close"),
    ],
)
def test_a_kernel_that_does_not_work_is_not_used(monkeypatch: pytest.MonkeyPatch, kernel: Any, reason: str) -> None:
    module = kernel and SimpleNamespace(max_logits=kernel)
    monkeypatch.setitem(sys.modules, "pyterrier_csplade._triton", module)
    with pytest.warns(UserWarning, match=rf"does not work on cpu \(.*{reason}.*\): the head is streamed"):
        assert fused_product(torch.device("cpu")) is max_logits


def test_a_kernel_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (states @ weight.T).amax(dim=1)

    monkeypatch.setitem(sys.modules, "pyterrier_csplade._triton", SimpleNamespace(max_logits=kernel))
    assert fused_product(torch.device("cpu")) is kernel
