"""The Triton kernel, run by Triton's interpreter in a process of its own, against numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pyterrier_csplade import _pooling
from pyterrier_csplade._head import fast_maxima, plain_maxima

CHECK = """
import numpy as np
import torch
from pyterrier_csplade._head import max_logits
from pyterrier_csplade._triton import maxima

generator = torch.Generator().manual_seed(0)
for texts, positions, tokens in [(1, 1, 1), (2, 70, 130), (3, 16, 256), (2, 5, 300)]:
    logits = torch.randn(texts, positions, tokens, generator=generator).bfloat16()  # with ties
    for values in (logits, -logits.abs() - 1):  # padding of tiles takes no part
        whole, winners = torch.full((texts, tokens + 3), 9.0), torch.full((texts, tokens), -1, dtype=torch.int32)
        maxima(values, whole[:, 1:-2], winners)
        reference = values.float().numpy()
        np.testing.assert_array_equal(whole[:, 1:-2].numpy(), reference.max(axis=1))
        np.testing.assert_array_equal(winners.numpy(), reference.argmax(axis=1))  # numpy's is the first, too
        assert (whole[:, [0, -2, -1]] == 9).all()
        alone = torch.empty(texts, tokens)
        maxima(values, alone)
        assert torch.equal(alone, whole[:, 1:-2])
logits[0, 1, 2] = float("nan")
maxima(logits, alone)
assert alone.isnan().nonzero().tolist() == [[0, 2]]

states, weight = torch.randn(2, 7, 16, generator=generator).bfloat16(), torch.randn(90, 16, generator=generator).bfloat16()
assert torch.equal(max_logits(states, weight, maxima), max_logits(states, weight))
print("equal")
"""


def test_the_kernel_computes_the_maxima() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "equal", done.stderr


def fail(*tensors: torch.Tensor) -> None:
    raise RuntimeError("no kernel image\nmore")


def off_by_one(logits: torch.Tensor, pooled: torch.Tensor, winners: torch.Tensor) -> None:
    plain_maxima(logits, pooled, winners)
    winners += 1


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [(None, "import of .* halted"), (fail, "no kernel image"), (off_by_one, "its maxima differ from PyTorch's")],
)
def test_a_kernel_that_does_not_work_is_not_used(monkeypatch: pytest.MonkeyPatch, kernel: Any, reason: str) -> None:
    module = kernel and SimpleNamespace(maxima=kernel)
    monkeypatch.setitem(sys.modules, "pyterrier_csplade._triton", module)
    fast_maxima.cache_clear()
    with pytest.warns(UserWarning, match=rf"does not work on cpu \(.*{reason}.*\): encoding takes longer"):
        assert fast_maxima(torch.device("cpu")) is plain_maxima
    fast_maxima.cache_clear()


def test_a_kernel_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(logits: torch.Tensor, pooled: torch.Tensor, winners: torch.Tensor | None = None) -> None:
        plain_maxima(logits, pooled, winners)

    monkeypatch.setitem(sys.modules, "pyterrier_csplade._triton", SimpleNamespace(maxima=kernel))
    fast_maxima.cache_clear()
    assert fast_maxima(torch.device("cpu")) is kernel
    fast_maxima.cache_clear()


@pytest.mark.parametrize("winners", [False, True])
def test_pooling_with_the_kernel_is_pooling_without(monkeypatch: pytest.MonkeyPatch, winners: bool) -> None:
    """The order of a GPU, positions before tokens, against the order of a CPU."""
    monkeypatch.setattr(_pooling, "fast_maxima", lambda device: plain_maxima)
    states, weight = torch.randn(3, 11, 8), torch.randn(700, 8)
    found = _pooling._maxima_by_kernel(states, weight, with_winners=winners)
    expected = _pooling._maxima_over_neighbours(states, weight, with_winners=winners)
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] is expected[1] is None) if not winners else torch.equal(found[1], expected[1])  # type: ignore[arg-type]
