"""The heads of inference: whatever the inputs, the screen's bound holds, and what comes out are the exact logits."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inside.model import Entries, heaviest, max_logits, plan, pooled_states, streamed_entries
from inside.model import encoder as _encoding
from inside.model import head as _head
from inside.model import screen as _screen
from pyterrier_csplade import CSPLADE
from pyterrier_csplade.model import Backbone, BatchEncoder, Screen
from support.models import TEXTS, language_model, tokenizer

DTYPES = [torch.float32, torch.bfloat16]


def identity(logits: torch.Tensor, tokens: object) -> torch.Tensor:
    return logits


def as_matrix(entries: Entries, shape: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros(shape, dtype=np.float32)
    assert len({*zip(entries.rows.tolist(), entries.tokens.tolist())}) == len(entries.rows)
    matrix[entries.rows, entries.tokens] = entries.logits
    return matrix


def draw(seed: int, texts: int, length: int, width: int, tokens: int, outlier: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and a head; a few dimensions and rows are ``outlier`` times as large, as in real models."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(texts, length, width, generator=generator)
    weight = torch.randn(tokens, width, generator=generator)
    states[:, :, 0] *= outlier
    weight[:, -1] *= outlier
    weight[0] *= outlier
    return states, weight


@settings(max_examples=60, deadline=None)
@given(
    # Widths from 2: torch 2.14's int8 product of width 1, which no model has, is wrong.
    st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 9), st.sampled_from([2, 3, 8, 64]), st.integers(1, 40),
    st.sampled_from([0.0, 1e-30, 1.0, 100.0, 1e6]), st.sampled_from(DTYPES),
)  # fmt: skip
def test_the_bound_is_never_violated(
    seed: int, texts: int, length: int, width: int, tokens: int, outlier: float, dtype: torch.dtype
) -> None:
    states, weight = (tensor.to(dtype) for tensor in draw(seed, texts, length, width, tokens, outlier))
    exact = (states.double() @ weight.double().T).amax(dim=1).numpy()
    bounds = Screen(weight).bounds(states).double().numpy()
    assert np.all(bounds >= exact)
    assert np.all(bounds >= max_logits(states, weight).double().numpy()), "nor by the product that it replaces"


def test_the_bound_is_near() -> None:
    states, weight = draw(0, 3, 50, 256, 300, 1.0)
    logits = (states @ weight.T).amax(dim=1)
    assert (Screen(weight).bounds(states) - logits).mean() < 0.03 * (states.norm(dim=2).mean() * weight.norm(dim=1).mean())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize(("in_flight", "copied"), [(64, 1), (2**20, 2**20), (200, 1000)])
def test_both_heads_give_the_exact_logits(
    dtype: torch.dtype, share: float, in_flight: int, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_head._LOGITS_IN_FLIGHT, "cpu", in_flight)
    monkeypatch.setattr(_screen, "_COPIED", copied)
    monkeypatch.setattr(_screen, "_LARGEST_SHARE", 1.0)
    states, weight = (tensor.to(dtype) for tensor in draw(1, 4, 7, 64, 500, 2.0))
    logits = (states.double() @ weight.double().T).amax(dim=1).numpy()
    threshold = float(np.quantile(logits, 1 - share))
    expected = np.where(logits > threshold, logits, 0)
    tolerance: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.01, "atol": 0.01}
    for entries in (streamed_entries(states, weight, threshold, identity), Screen(weight).entries(states, threshold, identity)):
        found = as_matrix(entries, logits.shape)
        unsure = np.abs(logits - threshold) < 0.01 * threshold  # which side of the threshold rounding puts them on
        np.testing.assert_allclose(found[~unsure], expected[~unsure], **tolerance)


def test_few_survivors_alone_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    states, weight = draw(1, 4, 7, 64, 500, 1.0)
    threshold = float(np.quantile((states @ weight.T).amax(dim=1).numpy(), 0.99))

    def refuse(*args: Any) -> Any:
        raise AssertionError("the whole head was worked out")

    monkeypatch.setattr(_screen, "streamed_entries", refuse)
    assert len(Screen(weight).entries(states, threshold, identity).rows) == 20
    with pytest.raises(AssertionError, match="whole head"):
        Screen(weight).entries(states, 0.0, identity)


_PEAK = """
import torch
from pathlib import Path
from pyterrier_csplade.model import Screen

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

torch.set_num_threads(1)
torch.manual_seed(0)
screen = Screen(torch.randn(128_000, 64))
with torch.inference_mode():
    screen.entries(torch.randn(1, 3, 64), 40.0, lambda logits, tokens: logits)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    for length in (150, 110, 90, 70, 50, 30):
        assert len(screen.entries(torch.randn(16, length, 64), 33.0, lambda logits, tokens: logits).rows) > 1000
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_blocks_leave_no_holes_in_memory() -> None:
    """Memory that survivors kept apart once made the screen of this head take 400 MiB; a block's product takes 4."""
    output = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True).stdout
    assert float(output) < 40


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_lost(bad: float) -> None:
    states, weight = draw(1, 2, 3, 8, 50, 1.0)
    states[1, 2, 3] = bad
    for entries in (streamed_entries(states, weight, 1.0, identity), Screen(weight).entries(states, 1.0, identity)):
        assert not torch.isfinite(entries.logits[entries.rows == 1]).all()


def test_gathers_pooled_states_only() -> None:
    hidden = torch.arange(24.0).view(3, 4, 2)
    mask = torch.tensor([[True, True, False, False], [False] * 4, [False, True, True, True]])
    rows, states = pooled_states(hidden, mask)
    assert rows.tolist() == [0, 2]
    assert {tuple(state) for state in states[0].tolist()} == {(0.0, 1.0), (2.0, 3.0)}
    assert states[1].tolist() == hidden[2, 1:].tolist()
    assert len(pooled_states(hidden, mask & False)[0]) == 0


def test_padded_positions_repeat_the_first() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, False, False]])
    _, states = pooled_states(torch.arange(8.0).view(2, 4, 1), mask, lambda count: count + 1)
    assert states[..., 0].tolist() == [[1.0, 2.0, 1.0], [4.0, 4.0, 4.0]]


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "phi"])  # cap, scale, bias
@pytest.mark.parametrize("variant", ["causal", "echo", "bidirectional"])
def test_vectors_do_not_depend_on_the_head(name: str, variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_screen, "_LARGEST_SHARE", 1.0)
    lm = language_model(name, attn_implementation="eager")
    heads = [CSPLADE((lm, tokenizer()), variant=variant, head=head, batch_size=2) for head in ("streamed", "screened")]
    for min_weight in (0.0, 0.4):
        streamed, screened = (model.encode_docs(TEXTS, min_weight=min_weight) for model in heads)
        assert abs(streamed - screened).max() < 1e-5
        assert (streamed.nnz == screened.nnz) and streamed.nnz


def test_impacts_do_not_depend_on_the_head_or_the_batch() -> None:
    lm = language_model()
    with torch.no_grad():
        lm.lm_head.weight[:, 0] -= 2  # sparse
    encoders = [
        CSPLADE((lm, tokenizer()), head=head, batch_size=batch_size).doc_encoder()
        for head in ("streamed", "screened")
        for batch_size in (1, 7, 64)
    ]
    names = [f"document {i}" for i in range(len(TEXTS))]
    first, *others = (encoder.impacts(TEXTS, names) for encoder in encoders)
    assert first.dtype == np.int32
    for other in others:
        assert (first != other).nnz <= 0.001 * first.nnz


def test_a_changed_model_gets_a_new_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_screen, "_LARGEST_SHARE", 1.0)
    lm = language_model()
    screened, streamed = (CSPLADE((lm, tokenizer()), head=head) for head in ("screened", "streamed"))
    before = screened.encode_docs(TEXTS)
    with torch.no_grad():
        lm.lm_head.weight.neg_()
    after = screened.encode_docs(TEXTS)
    assert abs(after - before).max() > 0.1
    assert abs(after - streamed.encode_docs(TEXTS)).max() < 1e-5


def test_the_head_is_chosen_by_the_machine_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = CSPLADE((language_model(), tokenizer())).backbone
    for fast, chosen in ((True, "screened"), (False, "streamed")):
        monkeypatch.setattr(_encoding, "multiplies_int8_fast", lambda fast=fast: fast)
        assert BatchEncoder(backbone).head == chosen
        assert BatchEncoder(backbone, "streamed").head == "streamed"
    with pytest.raises(ValueError, match="head must be None, .* found 'fast'"):
        BatchEncoder(backbone, "fast")  # type: ignore[arg-type]
    monkeypatch.setattr(Backbone, "device", torch.device("meta"))
    assert BatchEncoder(backbone).head == "streamed"
    with pytest.raises(ValueError, match="head='screened' does not run on meta"):
        BatchEncoder(backbone, "screened")


@given(st.lists(st.integers(1, 300), max_size=50), st.integers(1, 2000), st.integers(1, 40))
def test_batches_keep_to_their_budget_and_leave_nothing_out(lengths: list[int], tokens: int, texts: int) -> None:
    lengths.sort(reverse=True)
    batches = [lengths[part] for part in plan(lengths, tokens, texts)]
    assert [length for batch in batches for length in batch] == lengths
    for batch, following in zip(batches, [*batches[1:], []]):
        assert 1 <= len(batch) <= texts
        assert len(batch) == 1 or len(batch) * batch[0] <= tokens
        assert not following or len(batch) == texts or (len(batch) + 1) * batch[0] > tokens


def test_a_cpu_gets_small_batches_and_an_accelerator_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = CSPLADE((language_model(), tokenizer())).backbone
    backbone.contract = backbone.contract.replace(document_length=128)
    encoder, lengths = BatchEncoder(backbone), [128] * 30 + [20] * 900
    batches = [lengths[part] for part in encoder.batches(lengths, 32)]
    assert max(len(batch) * batch[0] for batch in batches) == 1024 and max(map(len, batches)) == 32
    monkeypatch.setattr(type(backbone), "device", torch.device("meta"))
    batches = [lengths[part] for part in encoder.batches(lengths, 32)]
    assert [len(batch) for batch in batches[:2]] == [32, 204] and max(map(len, batches)) <= 8 * 32


@pytest.mark.parametrize("head", ["streamed", "screened"])
@pytest.mark.parametrize("k", [1, 3, 10_000])
def test_the_heaviest_terms_are_kept(head: Any, k: int) -> None:
    csplade = CSPLADE((language_model(), tokenizer()), head=head, batch_size=3)
    texts = ["An inverted index maps every term.", "", "dogs and cats", "Sparse retrieval", "a b c d e f"]
    weights = csplade.encode_docs(texts).toarray()
    expected = np.zeros_like(weights)
    for row, values in enumerate(weights):
        best = sorted(range(len(values)), key=lambda column: (-values[column], column))[:k]
        expected[row, best] = values[best]
    np.testing.assert_array_equal(csplade.encode_docs(texts, top_k=k).toarray(), expected)
    np.testing.assert_array_equal(csplade.doc_encoder(top_k=k, quantizer=None).impacts(texts, texts).toarray(), expected)


def test_of_equal_weights_the_first_are_kept_and_what_is_no_number_stays() -> None:
    rows = torch.tensor([0, 0, 0, 2, 2, 2, 2, 3])
    weights = torch.tensor([1.0, 2.0, 1.0, 3.0, float("nan"), 3.0, 3.0, 0.5])
    assert heaviest(rows, weights, 2).tolist() == [0, 1, 3, 4, 7]
    assert heaviest(rows[:0], weights[:0], 2).tolist() == []
