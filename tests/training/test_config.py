"""Configuration files of the training phases."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import asdict
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from pyterrier_csplade import ConfigError, ContractError
from pyterrier_csplade.training import (
    AdaptationConfig,
    ContrastiveConfig,
    DistilQueryConfig,
    LoraSettings,
    TableConfig,
    TargetNnz,
    ValidationSettings,
    VocabularyConfig,
    load_config,
)
from pyterrier_csplade.training.images import ImagesConfig
from support.paths import ROOT

CONFIGS = sorted((ROOT / "examples").glob("*/*.yaml"))
TRAIN = "model: m\noutput: o\ndata: d.jsonl\nlearning_rate: 1e-4\nsteps: 10\n"


def write(tmp_path: Path, text: str, name: str = "config.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if "kind:" in text:
        assert load_config(path, VocabularyConfig).kind
        return
    config_class = AdaptationConfig if "corpus:" in text else ContrastiveConfig
    assert load_config(path, config_class).steps > 0


def test_paper_recipe_of_8b() -> None:
    config = load_config(ROOT / "examples/configs/train-8b-echo.yaml", ContrastiveConfig)
    assert (config.variant, config.learning_rate, config.lambda_query, config.lambda_document) == ("echo", 1e-4, 0.03, 0.03)
    assert (config.batch_size, config.negatives, config.warmup_steps, config.temperature) == (32, 15, 0.05, 1.0)
    assert config.lora == LoraSettings(rank=16, alpha=32)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (AdaptationConfig, "corpus: c.jsonl\nlearning_rate: 1e-4\nsteps: 10\n"),
        (ContrastiveConfig, "data: d.jsonl\nlearning_rate: 1e-4\nsteps: 10\n"),
        (ImagesConfig, "data: d.jsonl\nsteps: 10\n"),
        (VocabularyConfig, "kind: lower\n"),
        (TableConfig, "queries: q.tsv\n"),
        (DistilQueryConfig, "queries: q.tsv\nlayers: 2\n"),
    ],
)
def test_a_directory_has_no_revisions(tmp_path: Path, kind: Any, settings: str) -> None:
    """It was ignored."""
    beginning = "output: o\nrevision: v2\nmodel: "
    assert load_config(write(tmp_path, f"{beginning}acme/model\n{settings}"), kind).revision == "v2"
    path = write(tmp_path, f"{beginning}{tmp_path}\n{settings}")
    with pytest.raises(ConfigError, match=r"config.yaml, line 2: revision='v2' names .* is a directory: leave revision out"):
        load_config(path, kind)


def test_adapter_and_revision_beside_the_shipped_model_are_not_ignored(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": "csplade-tiny", "output": str(tmp_path / "o"), "queries": "q.tsv"}
    with pytest.raises(FileNotFoundError, match="there is no directory .*none"):
        TableConfig(**settings, adapter=str(tmp_path / "none")).load_model()
    with pytest.raises(ContractError, match="revision='v2' names a version of a hub model"):
        TableConfig(**settings, revision="v2").load_model()


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
        (TRAIN + "lora:\n  rank: 4\n  alpha: [9]\n", r"config.yaml, line 8: lora: alpha: expected int, found \[9\]"),
        (TRAIN + "lora: &a {rank: *a}\n", r"line 6: lora: rank: expected int, found {'rank': "),
        (TRAIN + "? [a]\n: b\n", r"line 6: a key is a mapping or a list: write the name of a setting"),
        (TRAIN + "{a: 1}: 2\n", r"line 6: a key is a mapping or a list"),
        (TRAIN + "<<: {seed: 1}\n", r"line 6: merge keys \(<<\) are not supported: write the settings out"),
        (TRAIN + "seed: !!python/name:os.system\n", r"is not valid: could not determine a constructor .* line 6"),
        (TRAIN + "corpus: c\n", r"line 6: unknown setting 'corpus', which is one of the adaptation phase"),
        (TRAIN + "quantization: nf4\n", r"line 6: quantization freezes"),
        (TRAIN + "query_prefix: 2024-01-01\n", r"line 6: query_prefix: expected str, found .*put text in quotation marks"),
        (TRAIN + f"seed: {'9' * 5000}\n", r"line 6: seed: expected int, found '9+\.\.\.9+': write a whole number below 2\^63$"),
        (TRAIN + f"seed: 0x{'f' * 5000}\n", r"line 6: seed: expected int, found an integer of 20000 bits"),
        (TRAIN + f"data: {'[' * 10**5}{']' * 10**5}\n", r"config.yaml is not valid: it is nested too deeply"),
        (TRAIN + " " * 2**18, r"config.yaml is not valid: it has more than 262,144 bytes: is it a configuration\?"),
        (
            "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]\n" for i in range(30)),
            r"line 1: unknown setting 'a0'",
        ),
        (
            TRAIN + f"validation: {{collection: c, measures: ['{'(' * 10**5}']}}\n",
            r"validation: ir_measures has no measure '\(\(",
        ),
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
        (TRAIN + "temperature: 0\n", r"temperature must be positive, or auto, found 0.0"),
        (TRAIN + "temperature: .nan\n", r"temperature: expected float, found nan"),
        (TRAIN + "gradient_accumulation_steps: 3\n", r"3 does not divide batch_size 32"),
        (TRAIN.replace("d.jsonl", "[]"), r"data must not be empty"),
        (TRAIN.replace("d.jsonl", "[1]"), r"data: expected str, found 1"),
        (TRAIN.replace("d.jsonl", "3"), r"data: expected str, found 3"),
        ("model: m\noutput: o\n", r"missing settings 'learning_rate', 'steps', 'data'"),
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


NONSENSE: list[Any] = [
    None, True, 0, -1, 1.5, 10**400, float("inf"), float("nan"), "", "x", "1e-4", "9" * 5000, "\ud800", "a\0b", [], [[]],
    [None], {}, {"a": {"b": []}}, {"rank": "x"}, {"collection": 7}, datetime.date(2024, 1, 1), b"bytes", {1, 2},
]  # fmt: skip


def is_of(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return any(is_of(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(is_of(v, arguments[0]) for v in value)
    return type(value) is hint and (hint is not float or math.isfinite(value))


@pytest.mark.parametrize("config_class", [AdaptationConfig, ContrastiveConfig, LoraSettings, ValidationSettings, TargetNnz])
def test_every_field_takes_values_of_its_type_only(config_class: Any) -> None:
    """A value is converted to the type of its field, or refused by the name of the field."""
    hints = get_type_hints(config_class)
    valid: dict[str, Any] = {"model": "m", "output": "o", "learning_rate": 1e-4, "steps": 9, "corpus": "c", "data": "d"}
    valid = {name: value for name, value in {**valid, "collection": "c"}.items() if name in hints}
    for name, value in product(hints, NONSENSE):
        try:
            made = config_class(**valid | {name: value})
        except ConfigError as error:
            assert name in str(error) and len(str(error)) < 300
        else:
            assert all(is_of(getattr(made, field), hint) for field, hint in hints.items()), (name, value)
            json.dumps(asdict(made))


@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_every_field_of_a_wrong_type_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    hints = get_type_hints(ContrastiveConfig)
    nested = {
        (key, inner)
        for key, cls in (("lora", LoraSettings), ("validation", ValidationSettings))
        for inner in get_type_hints(cls)
    }
    for keys in [*((key,) for key in hints), *nested]:
        value: Any = {"collection": "c"} if keys[0] == "validation" and len(keys) > 1 else {}
        settings = {"model": "m", "output": "o", "learning_rate": 1, "steps": 9, "data": "d"}
        settings |= {keys[0]: value | {keys[1]: {"wrong": 1}} if len(keys) > 1 else [["wrong"]]}
        text = json.dumps(settings, indent=1)
        line = max(number for number, found in enumerate(text.splitlines(), 1) if f'"{keys[-1]}":' in found)
        with pytest.raises(ConfigError, match=f"{name}, line {line}: {': '.join(keys)}: expected "):
            load_config(write(tmp_path, text, name), ContrastiveConfig)


def test_what_python_gives_is_converted() -> None:
    settings: dict[str, Any] = {
        "model": Path("m"),
        "output": "o",
        "data": ("a", "b"),
        "learning_rate": "1e-4",
        "steps": np.int64(9),
    }
    config = ContrastiveConfig(**settings)
    assert (config.model, config.data, config.learning_rate, config.steps) == ("m", ["a", "b"], 1e-4, 9)
    assert type(config.steps) is int


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none.yaml: No such file"):
        load_config(tmp_path / "none.yaml", ContrastiveConfig)
    deep = "[" * 10**5 + "]" * 10**5
    for text, message in (
        (deep, "nested too deeply"),
        ("{", "is not valid"),
        ('{"steps": 1, "steps": 2}', "a key appears twice in {steps, steps}"),
    ):
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
