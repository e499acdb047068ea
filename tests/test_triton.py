"""The Triton kernel, run by Triton's interpreter in a process of its own, against numpy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
