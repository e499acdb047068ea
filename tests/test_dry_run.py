"""The dry run: estimates against hand-worked and measured values, and what it finds wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import pytest
import torch
from training_runs import adaptation_config, contrastive_config, make_base
from transformers import AutoModelForCausalLM, LlamaConfig

from pyterrier_csplade import ConfigError
from pyterrier_csplade._cli import main
from pyterrier_csplade.training import LoraSettings, dry_run
from pyterrier_csplade.training._estimate import GPUS, Load, Method, layer_activation, memory_parts, step_flops
from pyterrier_csplade.training._run import add_lora
from pyterrier_csplade.training._shape import model_shape, read_model_config

PROJECTIONS = LoraSettings().target_modules


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models without weights, and training data."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    for path in folder.glob("*/model.safetensors"):
        path.unlink()
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    """No network, and a test that touches an accelerator fails."""

    def refuse(*args: Any) -> Any:
        raise AssertionError("an accelerator was touched")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)


# ---------------------------------------------------------------------- shapes and costs

LLAMAS = {
    "meta-llama/Llama-3.2-1B": (1.236, 1.95, 0.53),
    "meta-llama/Llama-3.2-3B": (3.213, 5.65, 0.79),
    "meta-llama/Llama-3.1-8B": (8.030, 13.98, 1.05),
}


@pytest.mark.parametrize("name", LLAMAS)
def test_shapes_of_the_published_models(name: str) -> None:
    """Billions of parameters as published; GFLOP of a token in backbone and head as computed elsewhere."""
    config, published = read_model_config(name, None)
    shape = model_shape(config, PROJECTIONS)
    parameters, backbone, head = LLAMAS[name]
    assert published
    assert shape.parameters / 1e9 == pytest.approx(parameters, abs=0.001)
    assert 2 * shape.backbone / 1e9 == pytest.approx(backbone, rel=0.003)
    assert 2 * shape.head / 1e9 == pytest.approx(head, rel=0.01)


def test_adapters_are_counted_as_peft_makes_them() -> None:
    model = models.language_model()
    shape = model_shape(model.config, PROJECTIONS)
    adapted = add_lora(model, LoraSettings(rank=4))
    assert shape.adapted * 4 == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    with pytest.raises(
        ConfigError, match="target_modules: the model has no 'query_proj'; its linear layers: down_proj, .*q_proj"
    ):
        model_shape(models.language_model().config, ["query_proj"])


@pytest.mark.parametrize("name", ["llama-tied", "opt", "gpt_neox"])
def test_every_parameter_is_counted_once(name: str) -> None:
    model = models.language_model(name)
    assert model_shape(model.config).parameters == sum(p.numel() for p in model.parameters())


def test_hours_of_the_papers_runs_on_an_h200() -> None:
    """Floors that were computed by hand: 608 M tokens, checkpointing 9.2 h, without 6.2 h, at 790 TFLOP/s."""
    shape = model_shape(read_model_config("meta-llama/Llama-3.1-8B", None)[0], PROJECTIONS)
    load = Load(tokens=1, live_tokens=1, head_tokens=1, texts=1, length=0)
    for checkpointing, hours in ((True, 9.2), (False, 6.2)):
        method = Method(rank=16, bf16=True, checkpointing=checkpointing)
        assert 608e6 * step_flops(shape, method, load) / (GPUS["h200"].flops * 3600) == pytest.approx(hours, rel=0.02)
    full = Method(rank=None, bf16=True, checkpointing=False)
    assert step_flops(shape, full, load) == 6 * shape.backbone + 2 * shape.head
    cached = Load(tokens=1, live_tokens=1, head_tokens=1, texts=1, length=0, forwards=1)
    assert step_flops(shape, full, cached) == 8 * shape.backbone + 4 * shape.head
    logits = Load(tokens=1, live_tokens=1, head_tokens=1, texts=0, length=0, every_logit=True)
    assert step_flops(shape, full, logits) == 6 * shape.backbone + 6 * shape.head


def saved_bytes(layers: int, tokens: int, *, lora: bool, bf16: bool) -> int:
    """What autograd keeps of a forward pass of the backbone, apart from parameters."""
    sizes = {"hidden_size": 64, "intermediate_size": 224, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 50}
    config = LlamaConfig(num_hidden_layers=layers, **sizes)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    if lora:
        model = add_lora(model.to(torch.bfloat16), LoraSettings(rank=2, dropout=0.0))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    backbone = (model.get_base_model() if lora else model).model
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        backbone(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(("lora", "bf16"), [(True, True), (False, True), (False, False)])
def test_activations_against_what_autograd_keeps(lora: bool, bf16: bool) -> None:
    by_layer = [saved_bytes(n, 130, lora=lora, bf16=bf16) - saved_bytes(n, 60, lora=lora, bf16=bf16) for n in (1, 2)]
    measured = (by_layer[1] - by_layer[0]) / 70
    sizes = {"hidden_size": 64, "intermediate_size": 224, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 50}
    shape = model_shape(LlamaConfig(num_hidden_layers=1, **sizes), PROJECTIONS if lora else ())
    masks = shape.adapted_inputs if lora else 0  # no dropout here, so no masks
    assert layer_activation(shape, lora=lora, bf16=bf16) - masks == pytest.approx(measured, rel=0.08)


def test_memory_by_part() -> None:
    shape = model_shape(read_model_config("meta-llama/Llama-3.1-8B", None)[0], PROJECTIONS)
    load = Load(tokens=1, live_tokens=1000, head_tokens=1, texts=544, length=75)
    lora = memory_parts(shape, Method(rank=16, bf16=True, checkpointing=True), load)
    assert lora["frozen weights"] == 2 * shape.parameters
    assert lora["optimizer"] == 2 * lora["gradients"] == 8 * 16 * shape.adapted
    assert lora["representations"] == 544 * 128256 * 16
    assert lora["activations"] < memory_parts(shape, Method(rank=16, bf16=True, checkpointing=False), load)["activations"] / 10
    full = memory_parts(shape, Method(rank=None, bf16=False, checkpointing=True), load)
    assert full["frozen weights"] == 0
    assert full["head"] - lora["head"] == 4 * shape.head
    assert sum(full[part] for part in ("trained weights", "gradients", "optimizer")) == 16 * shape.parameters
    nf4 = memory_parts(shape, Method(rank=16, bf16=True, checkpointing=True, four_bit=True), load)["frozen weights"]
    assert 5.5e9 < nf4 < 6.5e9
    sharded = memory_parts(shape, Method(rank=16, bf16=True, checkpointing=True, shards=8), load)
    assert sharded["frozen weights"] * 8 == lora["frozen weights"]
    assert sharded["activations"] == lora["activations"]


PEAK = """
import re, sys
import torch
from pyterrier_csplade.training._streamed_loss import streamed_prediction_loss
torch.set_num_threads(1)
trained, terms, width, positions = sys.argv[1] == "trained", 100_000, 256, 256
weight = torch.empty(terms, width).normal_().requires_grad_(trained)
hidden = torch.empty(positions, width).normal_().requires_grad_()
targets = torch.randint(terms, (positions,))
torch.randn(64, width) @ weight[:100].T
def peak():  # unlike getrusage's, not that of the process which started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
streamed_prediction_loss(hidden, weight, targets, 1.0)[0].backward()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("trained", [True, False])
def test_memory_of_the_head_in_adaptation(trained: bool) -> None:
    """Measured in a process of its own: no logits of all positions, which would take 100 MB and their gradients as much."""
    command = [sys.executable, "-c", PEAK, "trained" if trained else "frozen"]
    paths = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=paths)
    head, blocks = 100_000 * 256, 6 * 2**23 * 4
    gradient, extra = (4 * head, 4 * head) if trained else (0, 0)
    assert 0.7 < int(done.stdout) / (gradient + extra + blocks) < 1.3


# ---------------------------------------------------------------------- what is found out


def test_a_run_that_can_start(base: Path, tmp_path: Path) -> None:
    plan = dry_run(contrastive_config(base, tmp_path / "run", lora=LoraSettings(rank=2), negatives=1, batch_size=4, steps=12))
    assert plan.problems == []
    facts = dict(plan.facts)
    assert facts["data"] == f"{base / 'rows.jsonl'}: 24 rows, the first 24 of them read"
    assert facts["epochs"] == "2.00 (12 steps of 4 queries)"
    assert facts["negatives"] == "0.8 of 1 hard ones a query, 6 in a batch"  # a quarter of the rows has none
    assert set(plan.memory) >= {"frozen weights", "optimizer", "activations", "head", "representations"}
    assert plan.hours == pytest.approx(plan.flops / GPUS["h100"].flops / 3600 * 2)
    assert "the run can start" in str(plan)
    assert not (tmp_path / "run").exists()


def test_lengths_are_those_of_the_tokenizer(base: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (base / "rows.jsonl").read_text().splitlines()]
    queries = [len(models.tokenizer()(row["query"], add_special_tokens=False)["input_ids"]) for row in rows]
    plan = dry_run(contrastive_config(base, tmp_path / "run", query_length=5))
    share = sum(n > 5 for n in queries) / len(queries)
    assert dict(plan.facts)["queries"].startswith(f"{sum(queries) / len(queries):.1f} tokens")
    assert dict(plan.facts)["queries"].endswith(f"cut at 5: {share:.1%}")
    assert any("of the queries are longer than 5 tokens" in warning for warning in plan.warnings)


@pytest.mark.parametrize("variant", ["causal", "echo"])
def test_tokens_of_a_run(base: Path, tmp_path: Path, variant: Any) -> None:
    plans = [
        dry_run(contrastive_config(base, tmp_path / "run", variant=variant, steps=steps, batch_size=8), gpus=gpus)
        for steps, gpus in ((10, 1), (10, 4), (20, 1))
    ]
    assert plans[1].tokens == pytest.approx(plans[0].tokens)
    assert plans[2].tokens == pytest.approx(2 * plans[0].tokens)
    assert plans[1].memory["representations"] * 4 == pytest.approx(plans[0].memory["representations"])
    single = dry_run(contrastive_config(base, tmp_path / "run", steps=10, batch_size=8))
    assert plans[0].tokens == pytest.approx((2 if variant == "echo" else 1) * single.tokens)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model": "missing"}, r"missing: there is no .*config.json"),
        ({"batch_size": 32}, r"about 24 rows are fewer than one batch of 32"),
        ({"kl_weight": 1.0}, r"100% of the rows have no scores of a teacher"),
        ({"lora": LoraSettings(target_modules=["wq"])}, r"target_modules: the model has no 'wq'"),
    ],
)
def test_problems_are_found(base: Path, tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    config = contrastive_config(base, tmp_path / "run", **{"document_length": 64, **settings})
    found = dry_run(config).problems
    assert len(found) == 1 and re.search(problem, found[0]), found


@pytest.mark.parametrize("settings", [{"document_length": 200}, {"variant": "echo", "document_length": 100}])
def test_longer_than_the_positions(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    plan = dry_run(contrastive_config(base, tmp_path / "run", **settings))
    assert "sequences of up to 200 tokens, but the model has 128 positions" in plan.warnings


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("none.jsonl", "there is no file .*none.jsonl"),
        ("empty.jsonl", "empty.jsonl has no rows"),
        ("bad.jsonl", "bad.jsonl, line 1: the query has no positive passage"),
        ("irds:no/such", "irds:no/such: ir_datasets knows no such dataset"),
    ],
)
def test_data_that_cannot_be_used(base: Path, tmp_path: Path, data: str, problem: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bad.jsonl").write_text('{"query": "q", "positive_passages": []}\n')
    source = data if data.startswith("irds:") else str(tmp_path / data)
    config = contrastive_config(base, tmp_path / "run", document_length=64)
    plan = dry_run(type(config)(**{**vars(config), "data": source}))
    assert len(plan.problems) == 1 and re.search(problem, plan.problems[0]), plan.problems
    assert plan.hours > 0


def test_datasets_are_named_but_not_read(base: Path, tmp_path: Path) -> None:
    config = adaptation_config(base, tmp_path / "run")
    plan = dry_run(type(config)(**{**vars(config), "corpus": "irds:msmarco-passage"}))
    assert dict(plan.facts)["data"] == "irds:msmarco-passage: docs; not read here, since that may download it"
    assert not plan.problems


def test_a_tokenizer_that_does_not_fit(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "llama", tmp_path / "small")
    config = json.loads((tmp_path / "small/config.json").read_text())
    (tmp_path / "small/config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    plan = dry_run(contrastive_config(base, tmp_path / "run", model=tmp_path / "small", document_length=64))
    assert len(plan.problems) == 1
    assert plan.problems[0].startswith("the tokenizer does not fit the model: its ids go up to ")


def test_adaptation(base: Path, tmp_path: Path) -> None:
    plan = dry_run(adaptation_config(base, tmp_path / "run", batch_size=4, gradient_accumulation_steps=2))
    assert plan.problems == []
    assert plan.tokens == 3 * 4 * 16
    assert plan.memory["head"] < 2e9 and plan.memory["representations"] == 0
    plan = dry_run(adaptation_config(base, tmp_path / "run", batch_size=512))
    assert "fewer than one batch" in plan.problems[0]


def test_what_does_not_fit_is_said(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(free=10**12)  # whatever this disk has
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    settings: dict[str, Any] = {"lora": LoraSettings(rank=2), "bf16": True, "batch_size": 24, "negatives": 3}
    config = contrastive_config(base, tmp_path / "run", model="none", **settings)
    plan = dry_run(config, like="meta-llama/Llama-3.1-8B", gpu="RTX 4090")
    assert any(
        "do not fit into the 24.00 GB of one rtx-4090: gradient_checkpointing: true, more grad" in text
        for text in plan.warnings
    )
    assert any("there is no" in text for text in plan.warnings) and not plan.problems
    free.free = 5 * 10**9
    assert any("GB, 5.0 GB are free" in text for text in dry_run(config, like="meta-llama/Llama-3.1-8B").problems)
    with pytest.raises(ConfigError, match="unknown GPU 'h1000'; known are a100-40gb, .*h200"):
        dry_run(config, gpu="h1000")
    with pytest.raises(ConfigError, match="batch_size 24 cannot be divided by 5 processes"):
        dry_run(config, gpus=5)


def test_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    text = f"model: {base / 'llama'}\noutput: {tmp_path / 'run'}\ndata: {base / 'rows.jsonl'}\nlearning_rate: 1e-3\nsteps: 2\n"
    path.write_text(text + "batch_size: 4\ndocument_length: 64\n")
    assert main(["train", str(path), "--dry-run", "--gpu", "h200", "--gpus", "2"]) == 0
    assert "2 x h200" in capsys.readouterr().out
    path.write_text(text + "batch_size: 4\nnegatives: 1\nkl_weight: 1\n")
    assert main(["train", str(path), "--dry-run"]) == 2
    output = capsys.readouterr()
    assert "PROBLEM          100% of the rows have no scores of a teacher" in output.out
    assert output.err.startswith("pyterrier-csplade: 1 problems in ")
    assert not (tmp_path / "run").exists()
