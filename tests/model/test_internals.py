"""Private interfaces of torch and transformers: the same results where a release lacks them."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from inside.model import encoder, onednn, torch_internals, transformers_internals
from pyterrier_csplade import CSPLADE
from support.models import TEXTS, language_model, tokenizer


@pytest.mark.parametrize("present", [True, False])
def test_int8_products_are_exact(present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_internals.HAS_INT8_PRODUCT
    monkeypatch.setattr(torch_internals, "HAS_INT8_PRODUCT", present)
    rng = np.random.default_rng(0)
    left, right = (rng.integers(-127, 128, shape, dtype=np.int8) for shape in ((5, 64), (64, 9)))
    found = torch.empty(5, 9, dtype=torch.int32)
    torch_internals.int8_product(torch.from_numpy(left), torch.from_numpy(right), found)
    np.testing.assert_array_equal(found.numpy(), left.astype(int) @ right.astype(int))
    assert present or not torch_internals.multiplies_int8_fast()


def test_vectors_without_private_operators_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_internals.HAS_ONEDNN_LINEAR == torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    models = [CSPLADE((language_model(), tokenizer()), head=head) for head in ("streamed", "screened")]
    expected = [model.encode_docs(TEXTS).toarray() for model in models]
    monkeypatch.setattr(onednn, "HAS_ONEDNN_LINEAR", False)
    monkeypatch.setattr(onednn, "linear_by_onednn", lambda *args: pytest.fail("called"))
    monkeypatch.setattr(torch_internals, "HAS_INT8_PRODUCT", False)
    monkeypatch.delattr(torch, "_int_mm")
    for model, vectors in zip(models, expected):
        np.testing.assert_allclose(model.encode_docs(TEXTS).toarray(), vectors, atol=1e-5)


def test_a_change_in_place_is_seen() -> None:
    tensor = torch.ones(3)
    before = torch_internals.state_of(tensor)
    assert torch_internals.state_of(tensor) == before
    tensor.add_(1)
    assert torch_internals.state_of(tensor) != before
    unknown: Any = SimpleNamespace(is_inference=lambda: False)
    assert torch_internals.state_of(unknown) != torch_internals.state_of(unknown), "rather seen too often than never"


def test_whether_int8_is_fast_is_unknown_without_the_private_question(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_vnni_supported", "_is_avx512_vnni_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not torch_internals.multiplies_int8_fast()
    assert encoder.BatchEncoder(CSPLADE((language_model(), tokenizer())).backbone).head == "streamed"


def test_attention_of_a_configuration_with_and_without_the_setting() -> None:
    config = language_model(attn_implementation="sdpa").config
    assert transformers_internals.attention_of(config) == "sdpa"
    transformers_internals.set_attention(config, "eager")
    assert transformers_internals.attention_of(config) == "eager"
    bare = SimpleNamespace()
    transformers_internals.set_attention(bare, "eager")
    assert transformers_internals.attention_of(bare) == "unknown" and not vars(bare)


def test_the_face_loads_no_torch() -> None:
    code = "import sys, pyterrier_csplade.model as m; m.pipelined, dir(m); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
