"""Runs that start from a GGUF file, or from some layers of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pyterrier_csplade import CSPLADE, ConfigError
from pyterrier_csplade.training import adapt, dry_run, train
from support import models
from support.gguf_files import write_gguf
from support.training_runs import LORA, adaptation_config, contrastive_config, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of four layers, as a directory and as a file, and training data."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    lm = write_gguf(models.language_model(num_hidden_layers=4, intermediate_size=64), models.tokenizer(), folder / "model.gguf")
    lm.save_pretrained(folder / "deep")
    models.tokenizer().save_pretrained(folder / "deep")
    return folder


@pytest.mark.parametrize("model", ["deep", "model.gguf"])
def test_a_run_starts_from_the_kept_layers(model: str, base: Path, tmp_path: Path) -> None:
    # So small a rate changes no weight by more than the tolerance.
    config = adaptation_config(base, tmp_path / "run", model, layers=[0, 3], learning_rate=1e-9, steps=1)
    adapt(config)
    before, after = load_file(base / "deep/model.safetensors"), load_file(tmp_path / "run/model.safetensors")
    assert len(after) < len(before)
    for name, weights in after.items():
        source = name.replace("layers.1.", "layers.3.")
        torch.testing.assert_close(weights, before[source], rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "run/config.json").read_text())["num_hidden_layers"] == 2
    sources = json.loads(next((tmp_path / "run/checkpoints").glob("*/sources.json")).read_text())
    assert any(name.startswith("model") for name in sources)


def test_a_model_trained_from_a_file_with_an_adapter_is_an_ordinary_directory(base: Path, tmp_path: Path) -> None:
    train(contrastive_config(base, tmp_path / "run", "model.gguf", layers=2, lora=LORA, steps=1))
    csplade = CSPLADE(tmp_path / "run")
    assert csplade.contract.layers is None and csplade.contract.base_model == "model.gguf"
    assert csplade.backbone.model.config.num_hidden_layers == 2
    assert csplade.encode_docs(models.TEXTS).nnz


def test_layers_are_counted_in_the_estimate(base: Path, tmp_path: Path) -> None:
    for model in ("deep", "model.gguf"):
        plan = dry_run(contrastive_config(base, tmp_path / "run", model, layers=[0, 2, 3], document_length=64))
        assert ", 3 layers" in dict(plan.facts)["model"] and plan.problems == []


@pytest.mark.parametrize("layers", [0, [], [1, 0], "two"])
def test_settings_that_choose_no_layers(layers: Any, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers"):
        adaptation_config(base, tmp_path / "run", "deep", layers=layers)


def test_layers_and_files_that_are_not_there(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="deep cannot be used: .* has 4 layers, numbered from 0 to 3, so 5 cannot be kept"):
        adapt(adaptation_config(base, tmp_path / "run", "deep", layers=5))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.gguf"):
        adapt(adaptation_config(base, tmp_path / "run", "absent.gguf"))
    config = adaptation_config(base, tmp_path / "run", "absent.gguf")
    assert "there is no file of this name" in dry_run(config).problems[0]
    config = adaptation_config(base, tmp_path / "run", "deep", layers=[4])
    assert "so layer 4 cannot be kept" in dry_run(config).problems[0]
