"""Masked next-token prediction, the start of bidirectional models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_runs import adaptation_config, log_of, make_base
from transformers import AutoModelForCausalLM

from pyterrier_csplade import ConfigError
from pyterrier_csplade.training import adapt
from pyterrier_csplade.training._adaptation import mask_tokens


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def test_the_share_of_masked_tokens_and_their_weights() -> None:
    torch.manual_seed(0)
    tokens = torch.arange(40_000).view(100, 400) + 5
    visible, weights = mask_tokens(tokens, 3, 0.2, 0.1)
    masked = visible == 3
    assert float(masked[:, 2:].float().mean()) == pytest.approx(0.2, abs=0.01)
    assert masked[:, 1].all()
    assert torch.equal(visible[~masked], tokens[~masked])
    assert torch.equal(weights, torch.where(masked, 1.0, 0.1))


def test_mntp_trains_without_the_causal_mask(base: Path, tmp_path: Path) -> None:
    settings = {"objective": "mntp", "visible_weight": 1.0, "steps": 60, "learning_rate": 1e-2, "sequence_length": 32}
    output = adapt(adaptation_config(base, tmp_path / "run", **settings))
    assert log_of(output, "clm")[-1] < log_of(output, "clm")[0] - 1
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.config.is_causal is False
    first, second = (model(torch.tensor([[5, 6, 7, last]])).logits[0, 0] for last in (8, 9))
    assert not torch.allclose(first, second)


def test_clm_puts_the_causal_mask_back(base: Path, tmp_path: Path) -> None:
    masked = adapt(adaptation_config(base, tmp_path / "masked", objective="mntp", steps=1))
    output = adapt(adaptation_config(base, tmp_path / "run", masked, steps=1))
    assert AutoModelForCausalLM.from_pretrained(output).config.is_causal is True


def test_mask_token_must_be_a_token(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nothing such' is no token"):
        adapt(adaptation_config(base, tmp_path / "run", objective="mntp", mask_token="nothing such"))


@pytest.mark.parametrize("settings", [{"mask_rate": 0.0}, {"mask_rate": 1.0}, {"visible_weight": -1.0}])
def test_rates_must_make_sense(base: Path, tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="mask_rate"):
        adaptation_config(base, tmp_path / "run", objective="mntp", **settings)
