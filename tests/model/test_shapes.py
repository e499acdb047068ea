"""Shapes of batches on a CPU: few, so that what oneDNN keeps for each of them stays small, and of no effect on vectors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from inside.model import encoder as _encoding
from pyterrier_csplade import CSPLADE, Contract
from pyterrier_csplade.model import BatchEncoder
from support.models import TEXTS, language_model, tokenizer

VARIANTS: list[Any] = ["causal", "echo", "bidirectional"]


def model(length: int, **options: Any) -> CSPLADE:
    contract = Contract(document_length=length, query_length=length, **options)
    return CSPLADE((language_model(), tokenizer()), contract=contract)


def shapes(csplade: CSPLADE, sequences: list[list[int]], batch_size: int = 32) -> set[tuple[int, ...]]:
    """Encode and say which shapes the model has seen."""
    seen = set()

    def watch(module: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        seen.add(tuple(kwargs["input_ids"].shape))

    handle = csplade.backbone._lm.base_model.register_forward_pre_hook(watch, with_kwargs=True)
    csplade.batch_encoder.encode(sequences, batch_size, [str(row) for row in range(len(sequences))])
    handle.remove()
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_long_texts_of_all_lengths_have_few_shapes(variant: Any) -> None:
    csplade = model(60, variant=variant)
    copies = 2 if variant == "echo" else 1
    found = shapes(csplade, [[5] * length for length in range(1, 61)], batch_size=1)
    assert {length // copies for _, length in found if length >= copies * 32} == set(range(32, 61, 4))
    assert len(shapes(csplade, [[5] * length for length in (33, 34, 35, 36)], batch_size=1)) == 1
    assert shapes(csplade, [[5] * 7], batch_size=1) == {(1, copies * 7)}, "a query has no padding"


def test_no_batch_is_longer_than_a_document_may_be() -> None:
    csplade = model(59)
    assert shapes(csplade, [[5] * 58]) == shapes(csplade, [[5] * 59]) == {(1, 59)}
    assert csplade.batch_encoder.padded(61) == 61, "a query may be longer"


def test_batches_keep_to_their_budget_with_what_is_padded() -> None:
    encoder = BatchEncoder(model(100).backbone)
    lengths = sorted((93, 93, 91, 90) * 9, reverse=True)
    sizes = {(batch.stop - batch.start) * encoder.padded(lengths[batch.start]) for batch in encoder.batches(lengths, 32)}
    assert max(sizes) == 11 * 92 <= _encoding._TOKENS_ON_CPU


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_of_batches_changes_no_vector(variant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    csplade = CSPLADE((language_model(), tokenizer()), variant=variant)
    monkeypatch.setattr(_encoding, "_LENGTHS_ON_CPU", 1)
    expected = csplade.encode_docs(TEXTS).toarray()
    for multiple in (4, 64):
        monkeypatch.setattr(_encoding, "_LENGTHS_ON_CPU", multiple)
        monkeypatch.setattr(_encoding, "_LONG_ON_CPU", 0)
        assert {length % multiple for _, length in shapes(csplade, csplade.backbone.tokenize(TEXTS, "document")[0])} == {0}
        np.testing.assert_allclose(csplade.encode_docs(TEXTS).toarray(), expected, rtol=1e-5, atol=1e-5)


_PEAK = """
import torch
from pathlib import Path
from pyterrier_csplade.model import Screen, fast_products

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

torch.set_num_threads(1)
torch.manual_seed(0)
screen, before = Screen(torch.randn(8192, 128)), 0
states = torch.randn(1, 60, 128)
survivors = {0.0}
with torch.inference_mode(), fast_products(torch.device("cpu"), 1000):
    for threshold in torch.linspace(38, 28, 300).tolist():
        survivors.add(len(screen.entries(states, threshold, lambda logits, tokens: logits).rows))
        before = before or peak()
assert len(survivors) > 100
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_numbers_of_survivors_leave_nothing_in_memory() -> None:
    output = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True).stdout
    assert float(output) < 15
