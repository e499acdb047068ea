"""Configuration files of the training phases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pyterrier_csplade import ConfigError
from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig, LoraSettings, load_config
from support.paths import ROOT

CONFIGS = sorted((ROOT / "examples").glob("*/*.yaml"))
TRAIN = "model: m\noutput: o\ndata: d.jsonl\nlearning_rate: 1e-4\nsteps: 10\n"


def write(tmp_path: Path, text: str, name: str = "config.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    config_class = AdaptationConfig if "corpus:" in path.read_text(encoding="utf-8") else ContrastiveConfig
    assert load_config(path, config_class).steps > 0


def test_paper_recipe_of_8b() -> None:
    config = load_config(ROOT / "examples/configs/train-8b-echo.yaml", ContrastiveConfig)
    assert (config.variant, config.learning_rate, config.lambda_query, config.lambda_document) == ("echo", 1e-4, 0.03, 0.03)
    assert (config.batch_size, config.negatives, config.warmup_steps, config.temperature) == (32, 15, 0.05, 1.0)
    assert config.lora == LoraSettings(rank=16, alpha=32)


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, TRAIN + "warmup_steps: 100\nbatch_size: 4.0\n"), ContrastiveConfig)
    assert config.learning_rate == 1e-4 and isinstance(config.learning_rate, float)
    assert (config.warmup_steps, config.batch_size) == (100.0, 4)
    assert isinstance(config.batch_size, int)


def test_json_and_lists_and_nested_settings(tmp_path: Path) -> None:
    text = '{"model": "m", "output": "o", "data": ["a.jsonl", "b.jsonl"], "learning_rate": 1, "steps": 2, "lora": {"rank": 4}}'
    config = load_config(write(tmp_path, text, "config.json"), ContrastiveConfig)
    assert config.data == ["a.jsonl", "b.jsonl"]
    assert config.lora == LoraSettings(rank=4)
    assert asdict(config)["lora"]["rank"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRAIN + "lamda_query: 1\n", r"unknown setting 'lamda_query'; did you mean 'lambda_query'"),
        (TRAIN + "lora: {rnk: 1}\n", r"lora: unknown setting 'rnk'; did you mean 'rank'"),
        (TRAIN + "zzz: 1\n", r"unknown setting 'zzz'$"),
        (TRAIN + "steps: 20\n", r"the key 'steps' appears twice, the second time on line 6"),
        (TRAIN + "batch_size: many\n", r"batch_size: expected int, found 'many'"),
        (TRAIN + "batch_size: 1.5\n", r"batch_size: expected int, found 1.5"),
        (TRAIN + "batch_size: true\n", r"batch_size: expected int, found True"),
        (TRAIN + "bf16: 1\n", r"bf16: expected bool, found 1"),
        (TRAIN + "temperature: [1]\n", r"temperature: expected float, found \[1\]"),
        (TRAIN + "batch_size: .inf\n", r"batch_size: expected int, found inf"),
        (TRAIN + "lora: {rank: 0}\n", r"lora: rank must be positive"),
        (TRAIN + "revision:\nseed: x\n", r"seed: expected int, found 'x'"),
        (TRAIN + "lora: true\n", r"lora: expected a mapping"),
        (TRAIN + "variant: bi\n", r"variant: expected one of 'causal', 'echo', 'bidirectional', found 'bi'"),
        (TRAIN + "lora: {}\nquantization: int3\n", r"quantization: expected one of 'nf4', found 'int3'"),
        (TRAIN + "quantization: nf4\n", r"quantization freezes the weights in 4 bits: it needs lora"),
        (TRAIN + "batch_size: 0\n", r"batch_size must be positive, found 0"),
        (TRAIN + "negatives: -1\n", r"negatives must not be negative, found -1"),
        (TRAIN + "temperature: 0\n", r"temperature must be positive, found 0.0"),
        (TRAIN + "temperature: .nan\n", r"temperature: expected float, found nan"),
        (TRAIN + "gradient_accumulation_steps: 3\n", r"3 does not divide batch_size 32"),
        (TRAIN.replace("d.jsonl", "[]"), r"data must not be empty"),
        (TRAIN.replace("d.jsonl", "[1]"), r"data: expected str, found 1"),
        (TRAIN.replace("d.jsonl", "3"), r"data: expected str, found 3"),
        ("model: m\noutput: o\n", r"missing setting 'learning_rate', 'steps', and 'data'"),
        ("", r"expected a mapping of settings, found NoneType"),
        ("- model\n", r"expected a mapping of settings, found list"),
        ("model: [\n", r"is not valid: .*line 2"),
        ("a: *b\n", r"is not valid: .*alias"),
    ],
)
def test_errors_are_clear(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, ContrastiveConfig)
    assert str(path) in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none.yaml: No such file"):
        load_config(tmp_path / "none.yaml", ContrastiveConfig)
    for text, message in (("{", "is not valid"), ('{"steps": 1, "steps": 2}', "a key appears twice in {steps, steps}")):
        with pytest.raises(ConfigError, match=message):
            load_config(write(tmp_path, text, "config.json"), ContrastiveConfig)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid"):
        load_config(tmp_path / "binary.yaml", ContrastiveConfig)


def test_length_of_the_flops_ramp() -> None:
    settings: dict[str, Any] = {"model": "m", "output": "o", "data": "d", "learning_rate": 1.0, "steps": 300}
    assert ContrastiveConfig(**settings).flops_ramp == pytest.approx(100)
    assert ContrastiveConfig(**settings, flops_warmup_steps=50).flops_ramp == 50
    assert ContrastiveConfig(**settings, flops_warmup_steps=0).flops_ramp == 0
