"""The shipped recipes: the published values, written out here once more, and everything else is marked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig, LoraSettings, load_config
from support.paths import ROOT

CONFIGS = ROOT / "examples/configs"
RECIPES = sorted(path for path in CONFIGS.glob("*.yaml") if "model:" in path.read_text(encoding="utf-8"))

# Table 3 and section 3.1 of the paper.
ADAPTATION: dict[str, Any] = {
    "corpus": "irds:msmarco-passage", "sequence_length": 2048, "batch_size": 32, "steps": 10000, "warmup_steps": 1000,
    "relu_weight": 1, "bf16": True, "gradient_checkpointing": True,
}  # fmt: skip
CONTRASTIVE: dict[str, Any] = {
    "batch_size": 32, "negatives": 15, "warmup_steps": 0.05, "bf16": True, "gradient_checkpointing": True, "logit_scale": 1,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "1b": {"learning_rate": 5e-5, "lambda_query": 0.003, "lambda_document": 0.003, "steps": 46000},
    "8b": {"learning_rate": 1e-4, "lambda_query": 0.03, "lambda_document": 0.03, "steps": 15300},
}
RANKS = {"1b": 64, "8b": 16}
VARIANTS = ("causal", "echo", "bidirectional")
# The comment of a value that the paper does not publish.
MARK = r"# (derived|.*our choice \((not measured|measured: .+)\))"
MODELS = {"1b": "meta-llama/Llama-3.2-1B", "8b": "meta-llama/Llama-3.1-8B"}


def values(config: Any, names: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("size", SIZES)
def test_adaptation_has_the_papers_values(size: str) -> None:
    config = load_config(CONFIGS / f"adapt-{size}.yaml", AdaptationConfig)
    assert values(config, ADAPTATION) == ADAPTATION
    assert config.model == MODELS[size] and config.objective == "clm"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", SIZES)
def test_contrastive_training_has_the_papers_values(size: str, variant: str) -> None:
    config = load_config(CONFIGS / f"train-{size}-{variant}.yaml", ContrastiveConfig)
    expected = {**CONTRASTIVE, **SIZES[size], "variant": variant, "model": f"runs/adapt-{size}"}
    assert values(config, expected) == expected
    assert isinstance(config.lora, LoraSettings) and config.lora.rank == RANKS[size]
    losses = values(config, ("infonce_weight", "kl_weight", "margin_mse_weight", "query_regularizer", "document_regularizer"))
    assert list(losses.values()) == [1, 0, 0, "flops", "flops"]


def test_recipes_start_from_one_anothers_output() -> None:
    outputs = {yaml.safe_load(path.read_text(encoding="utf-8"))["output"] for path in RECIPES}
    for path in RECIPES:
        model = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        assert model in outputs or model.startswith("meta-llama/"), path


def test_lion_sp() -> None:
    mntp = load_config(CONFIGS / "lion-sp-8b-mntp.yaml", AdaptationConfig)
    assert (mntp.objective, mntp.mask_rate, mntp.mask_token, mntp.sequence_length) == ("mntp", 0.2, "_", 512)
    config = load_config(CONFIGS / "lion-sp-8b.yaml", ContrastiveConfig)
    assert config.logit_scale == 4096**-0.25
    assert (config.infonce_weight, config.kl_weight, config.add_bos, config.pool_special) == (0.5, 0.5, True, True)
    assert (config.lambda_query, config.lambda_document, config.negatives, config.batch_size) == (0.05, 0.04, 16, 128)
    assert config.flops_ramp == pytest.approx(config.steps / 3 / config.gradient_accumulation_steps, rel=1e-3)
    assert config.needs_teacher


def test_laconic() -> None:
    weak, hard = (load_config(CONFIGS / f"laconic-8b{name}.yaml", ContrastiveConfig) for name in ("-weak", ""))
    assert (weak.negatives, weak.batch_size, weak.lambda_document, weak.query_length) == (0, 8192, 5e-4, 64)
    assert (hard.negatives, hard.batch_size, hard.lambda_document, hard.query_length) == (15, 128, 1e-3, 192)
    assert hard.steps == 648_766 // 128 and weak.steps == 9_259_451 // 8192
    for config in (weak, hard):
        assert (config.variant, config.query_prefix, config.document_prefix) == ("bidirectional", "query: ", "passage: ")
        assert (config.add_bos, config.add_eos, config.logit_scale, config.temperature) == (False, False, 1, 1)


def test_splade_v3() -> None:
    config = load_config(CONFIGS / "distil-8b.yaml", ContrastiveConfig)
    assert (config.infonce_weight, config.kl_weight, config.margin_mse_weight, config.negatives) == (0, 1, 0.05, 8)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_is_not_published_is_marked(path: Path) -> None:
    """In the recipes of the paper, every value that is not in its tables has a reason beside it."""
    if not re.match(r"(adapt|train)-\db", path.stem):
        assert "our choice (not measured)" in path.read_text(encoding="utf-8")
        return
    size = path.stem.split("-")[1]
    published = {*ADAPTATION, *CONTRASTIVE, *SIZES[size], "variant", "model", "output", "data", "rank", "lora"} - {"steps"}
    if path.stem.startswith("adapt"):
        published -= {"learning_rate", "rank", "lora"}
        published |= {"steps"}
    for line in path.read_text(encoding="utf-8").splitlines():
        name = line.partition(":")[0].strip()
        if re.fullmatch(r"\w+", name) and name not in published:
            assert re.search(MARK, line) or name == "rank", f"{path.name}: {line}"
