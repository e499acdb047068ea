"""Masked next-token prediction, the start of bidirectional models."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inside.training import adaptation, draw_positions
from pyterrier_csplade import ConfigError
from pyterrier_csplade.training import adapt
from support import models
from support.training_runs import adaptation_config, log_of, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def test_positions_are_drawn_without_the_first() -> None:
    counts = torch.zeros(101)
    for _ in range(500):
        masked, predicted = draw_positions(101, 0.2, 0.1)
        assert (len(masked), len(predicted), len(set(predicted.tolist()))) == (20, 30, 30)
        assert set(masked.tolist()) <= set(predicted.tolist())
        counts[masked] += 1
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:] / 500, 0.2, atol=0.09)
    assert len(draw_positions(2, 0.2, 0.0)[0]) == 1


def test_the_loss_is_that_of_the_masked_tokens(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = torch.tensor([3, 9]), torch.tensor([3, 9, 14])
    monkeypatch.setattr(adaptation, "draw_positions", lambda *_: positions)
    config = adaptation_config(base, tmp_path / "run", objective="mntp", steps=1, relu_weight=0.0)
    output = adapt(config)
    tokens = torch.from_numpy(np.fromfile(output / "tokens.int32", dtype=np.int32).astype(np.int64))
    model = AutoModelForCausalLM.from_pretrained(base / "llama")
    model.config.is_causal = False
    losses = []
    for start in range(0, len(tokens) - 15, 16):
        sequence = tokens[start : start + 16].clone()
        sequence[positions[0]] = models.tokenizer().convert_tokens_to_ids("_")
        logits = model(sequence[None]).logits[0].detach()
        losses += [float(-logits[p - 1].log_softmax(0)[tokens[start + p]]) for p in (3, 9, 14)]
    # The batch holds 4 of the sequences.
    groups = [np.mean(losses[3 * i : 3 * i + 3]) for i in range(len(losses) // 3)]
    found = log_of(output, "clm")[0]
    assert any(abs(np.mean(batch) - found) < 1e-4 for batch in itertools.combinations(groups, 4))


@pytest.fixture(scope="module")
def masked(base: Path) -> Path:
    """A model that was trained with masks."""
    settings = {"objective": "mntp", "visible_rate": 0.8, "steps": 60, "learning_rate": 1e-2, "sequence_length": 32}
    return adapt(adaptation_config(base, base / "masked", **settings))


def test_mntp_trains_without_the_causal_mask(masked: Path) -> None:
    assert log_of(masked, "clm")[-1] < log_of(masked, "clm")[0] - 1
    model = AutoModelForCausalLM.from_pretrained(masked)
    assert model.config.is_causal is False
    first, second = (model(torch.tensor([[5, 6, 7, last]])).logits[0, 0] for last in (8, 9))
    assert not torch.allclose(first, second)


def test_clm_puts_the_causal_mask_back(base: Path, masked: Path, tmp_path: Path) -> None:
    output = adapt(adaptation_config(base, tmp_path / "run", masked, steps=1))
    assert AutoModelForCausalLM.from_pretrained(output).config.is_causal is True


def test_mask_token_must_be_a_token(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nothing such' is not a token"):
        adapt(adaptation_config(base, tmp_path / "run", objective="mntp", mask_token="nothing such"))


@pytest.mark.parametrize("settings", [{"mask_rate": 0.0}, {"mask_rate": 0.6, "visible_rate": 0.5}, {"visible_rate": -1.0}])
def test_rates_must_make_sense(base: Path, tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="mask_rate|visible_rate must not be negative"):
        adaptation_config(base, tmp_path / "run", objective="mntp", **settings)
