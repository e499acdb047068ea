"""Products by oneDNN: the same numbers as by the default, for plain float32 matrices alone."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from inside.model import encoder as encoding
from pyterrier_csplade import CSPLADE
from pyterrier_csplade.model import fast_products
from support.models import language_model, tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the inputs that go through oneDNN."""
    shapes: list[tuple[int, ...]] = []
    operator = torch.ops.mkldnn._linear_pointwise

    def record(inp: torch.Tensor, *others: object) -> torch.Tensor:
        shapes.append(tuple(inp.shape))
        return operator(inp, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", record)
    return shapes


@pytest.mark.parametrize("shape", [(3, 40, 24), (5, 24), (24,)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products(shape: tuple[int, ...], with_bias: bool, calls: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    inp, weight, bias = rng.normal(size=shape), rng.normal(size=(30, 24)), rng.normal(size=30)
    arguments = [torch.from_numpy(array).float() for array in (inp, weight, *([bias] if with_bias else []))]
    with torch.inference_mode(), fast_products(CPU, 64):
        found = linear(*arguments)
    assert calls == [shape]
    np.testing.assert_allclose(found.numpy(), inp @ weight.T + with_bias * bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_left_alone(dtype: torch.dtype, calls: list[tuple[int, ...]]) -> None:
    with torch.inference_mode(), fast_products(CPU, 64):
        assert linear(torch.ones(2, 3, dtype=dtype), torch.ones(4, 3, dtype=dtype)).tolist() == [[3] * 4] * 2
        assert linear(torch.ones(0, 3), torch.ones(4, 3)).shape == (0, 4)
    assert not calls


def test_few_tokens_are_left_alone(calls: list[tuple[int, ...]]) -> None:
    with torch.inference_mode(), fast_products(CPU, 63):
        linear(torch.ones(2, 3), torch.ones(4, 3))
    assert not calls


@pytest.mark.parametrize("name", ["llama", "qwen3", "opt", "phi"])
def test_documents_have_the_same_vectors(name: str, calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    csplade = CSPLADE((language_model(name), tokenizer()))
    texts = ["An inverted index maps every term to its postings.", "dogs and cats", "Sparse retrieval " * 20]
    found = csplade.encode_docs(texts)
    assert calls
    monkeypatch.setattr(encoding, "fast_products", lambda device, tokens: nullcontext())
    expected = csplade.encode_docs(texts)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)
