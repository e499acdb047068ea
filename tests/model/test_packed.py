"""Texts in one row without padding: only where they do not see each other, and with the vectors of padded ones."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from inside.model import Variant
from inside.model import attention as _varlen
from inside.model import selftest as _selftest
from pyterrier_csplade import CSPLADE
from pyterrier_csplade.model import BatchEncoder
from support import flash
from support.models import TEXTS, language_model, tokenizer

VARIANTS: list[Variant] = ["causal", "echo", "bidirectional"]


def with_flash(variant: Variant, name: str = "llama") -> CSPLADE:
    lm = language_model(name, attn_implementation="eager")
    lm.config._attn_implementation = "flash_attention_2"
    return CSPLADE((lm, tokenizer()), variant=variant)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "phi3"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_texts_have_the_vectors_of_padded_ones(variant: Variant, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = CSPLADE((language_model(name), tokenizer()), variant=variant).encode_docs(TEXTS)
    flash.install(monkeypatch)
    csplade = with_flash(variant, name)
    assert csplade.backbone.packs
    flash.CALLS.clear()
    found = csplade.encode_docs(TEXTS)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-4, atol=1e-5)
    copies = 2 if variant == "echo" else 1
    lengths = sorted((copies * len(ids) for ids in csplade.backbone.tokenize(TEXTS, "document")[0]), reverse=True)
    assert flash.CALLS == [lengths] * 2, "each layer sees the texts' own lengths, and no padding"


@pytest.mark.parametrize("variant", VARIANTS)
def test_texts_that_see_each_other_are_padded(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(flash.flash_attn_varlen_func)  # transformers reads the names of its arguments
    def leaky(q: Any, k: Any, v: Any, cu_seqlens_q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = flash.flash_attn_varlen_func(q, k, v, cu_seqlens_q, *args, **kwargs)
        return found + 1e-3 * found.mean(dim=0) if len(cu_seqlens_q) == 1 + 3 else found

    flash.install(monkeypatch, leaky)
    assert not with_flash(variant).backbone.packs


def varlen_attn(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor, max_q: int,
    max_k: int, *, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:  # fmt: skip
    """PyTorch's function of this name, by plain attention: no window, or that of a causal mask."""
    assert window_size in ((-1, -1), (-1, 0)) and int(cu_seq_q.diff().max()) == max_q == max_k
    causal = window_size == (-1, 0)
    return flash.flash_attn_varlen_func(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, softmax_scale=scale, causal=causal)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "phi3", "opt", "gpt_neox", "granite"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_sdpa_packs_where_pytorch_has_a_kernel(variant: Variant, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    padded = CSPLADE((language_model(name), tokenizer()), variant=variant)
    expected = padded.encode_docs(TEXTS)
    assert not padded.backbone.packs
    monkeypatch.setattr(_selftest, "is_available", lambda device, dtype: True)
    monkeypatch.setattr(_varlen, "varlen_attn", varlen_attn)
    csplade = CSPLADE((language_model(name), tokenizer()), variant=variant)
    assert csplade.backbone.packs
    flash.CALLS.clear()
    found = csplade.encode_docs(TEXTS)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-4, atol=1e-5)
    assert len(flash.CALLS) >= 2 and csplade.backbone.attn_implementation == "sdpa"


def test_a_window_counts_the_token_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def kernel(query: torch.Tensor, *args: Any, window_size: tuple[int, int], scale: float | None) -> torch.Tensor:
        seen.append(window_size)
        return query

    monkeypatch.setattr(_varlen, "varlen_attn", kernel)
    tensor, bounds = torch.zeros(1, 2, 3, 4), _varlen.text_bounds(torch.tensor([[1, 1], [1, 0]]))
    assert bounds["cu_seq_lens_q"].tolist() == [0, 2, 3] and bounds["max_length_k"] == 2
    module = torch.nn.Module()
    for causal, sliding in [(True, None), (True, 3), (False, 3)]:
        _varlen.attend(module, tensor, tensor, tensor, None, is_causal=causal, sliding_window=sliding, **bounds)
    assert seen == [(-1, 0), (2, 0), (-1, -1)]
    with pytest.raises(ValueError, match="softcap is not supported without padding"):
        _varlen.attend(module, tensor, tensor, tensor, None, softcap=1.0, **bounds)


def test_what_the_kernel_refuses_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*tensors: Any, **settings: Any) -> torch.Tensor:
        raise RuntimeError("FlashAttention only supports head dimensions that are a multiple of 8")

    monkeypatch.setattr(_selftest, "is_available", lambda device, dtype: True)
    monkeypatch.setattr(_varlen, "varlen_attn", refuse)
    csplade = CSPLADE((language_model(), tokenizer()))
    assert not csplade.backbone.packs and csplade.backbone.attn_implementation == "sdpa"
    assert csplade.encode_docs(TEXTS).nnz


def test_other_implementations_are_not_packed() -> None:
    for implementation in ("sdpa", "eager"):
        lm = language_model(attn_implementation=implementation)
        assert not CSPLADE((lm, tokenizer())).backbone.packs


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_row_is_taken_apart_as_it_was_put_together(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = CSPLADE((language_model(), tokenizer())).backbone
    lengths, longest = [3, 1, 5], 5
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths])
    ids = torch.arange(15).view(3, 5)
    if side == "left":
        mask = mask.flip(1)
    seen: dict[str, Any] = {}

    def echo(**kwargs: Any) -> Any:
        seen.update(kwargs)
        return type("Output", (), {"last_hidden_state": kwargs["input_ids"][..., None].float()})

    monkeypatch.setattr(type(backbone._lm), "base_model", property(lambda self: echo))
    found = backbone.packed_states(ids, mask)
    assert seen["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1, 2, 3, 4]]
    assert seen["input_ids"].tolist() == [ids[mask.bool()].tolist()] and "attention_mask" not in seen
    assert found.shape == (3, 5, 1)
    assert found[mask.bool()][:, 0].tolist() == ids[mask.bool()].tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_is_padded(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    flash.install(monkeypatch)
    backbone = with_flash(variant).backbone
    batch = backbone.collate(backbone.tokenize(TEXTS, "document")[0])
    monkeypatch.setattr(backbone, "packed_states", lambda *args: pytest.fail("packed"))
    backbone.train()
    assert backbone(**batch).isfinite().all()
    backbone.eval()
    with pytest.raises(pytest.fail.Exception, match="packed"):
        BatchEncoder(backbone).encode([[5, 6]], 2, ["a"])
