"""The dry run: what it reports about a run, and the problems that it finds. Its estimates are in test_estimate.py."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inside.planning import main
from pyterrier_csplade import ConfigError
from pyterrier_csplade.training import LoraSettings, ValidationSettings, dry_run
from pyterrier_csplade.training.planning import GPUS
from support import models
from support.training_runs import adaptation_config, contrastive_config, make_base, make_collection


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


def test_a_run_that_can_start(base: Path, tmp_path: Path) -> None:
    plan = dry_run(contrastive_config(base, tmp_path / "run", lora=LoraSettings(rank=2), negatives=1, batch_size=4, steps=12))
    assert plan.problems == []
    facts = dict(plan.facts)
    assert facts["data"] == f"{base / 'rows.jsonl'}: 24 rows, the first 24 of them read"
    assert facts["epochs"] == "2.00 (12 steps of 4 queries)"
    assert facts["negatives"] == "0.8 of 1 hard negatives per query, 6 in a batch"  # a quarter of the rows has none
    assert set(plan.memory) >= {"frozen weights", "optimizer", "activations", "head", "representations"}
    assert plan.hours == pytest.approx(plan.flops / GPUS["h100"].flops / 3600 / 0.27)
    assert "the run can start" in str(plan)
    assert not (tmp_path / "run").exists()


def test_lengths_are_counted_by_the_tokenizer(base: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("steps", "fsdp", "part"), [(4, False, 50), (1, True, 128)])
def test_graphs_that_are_not_kept(base: Path, tmp_path: Path, steps: int, fsdp: bool, part: int) -> None:
    """Of 200 passages, the graphs of 50 exist at once with four steps, and of at most 128 with a sharded model."""
    settings: dict[str, Any] = {"batch_size": 200, "negatives": 0}
    plan = dry_run(contrastive_config(base, tmp_path / "run", gradient_accumulation_steps=steps, **settings), fsdp=fsdp)
    whole = dry_run(contrastive_config(base, tmp_path / "run", **settings))
    assert plan.flops > whole.flops
    assert plan.memory["activations"] < whole.memory["activations"]
    terms = len(models.tokenizer())
    assert whole.memory["representations"] == 400 * 12 * terms  # queries and passages, at the end of the forward pass
    assert plan.memory["representations"] == (400 * 16 + part * 12) * terms


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model": "missing"}, r"missing: there is no directory .*config.json"),
        ({"batch_size": 32}, r"about 24 rows are fewer than a batch of 32"),
        ({"kl_weight": 1.0}, r"100% of the rows have no teacher's scores"),
        ({"lora": LoraSettings(target_modules=["wq"])}, r"target_modules: the model has no 'wq'"),
        ({"report_to": ["tensorbord"]}, r"report_to: tensorbord is not supported"),
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
        ("irds:no/such", "irds:no/such: ir_datasets has no dataset of this name"),
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


def test_queries_of_a_validation_are_counted(base: Path, tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c")
    (folder / "topics.dev.tsv").write_text("a\tone\nb\ttwo\nc\tthree\nd\tfour\n")
    (folder / "qrels.dev.txt").write_text("a 0 d0 1\nb 0 d1 2\nc 0 d1 0\nd 0 d1 1\n")
    settings: dict[str, Any] = {"collection": str(folder), "steps": 500}
    for queries, expected in ((9, "3 queries every 500 steps"), (2, "2 queries every 500 steps")):
        validation = ValidationSettings(**settings, queries=queries)
        assert dict(dry_run(contrastive_config(base, tmp_path / "run", validation=validation)).facts)["validation"] == expected
    missing = ValidationSettings(**settings, split="test2")
    plan = dry_run(contrastive_config(base, tmp_path / "run", document_length=64, validation=missing))
    assert len(plan.problems) == 1 and re.match("validation: .* contains no topics.test2.tsv", plan.problems[0])
    unknown = ValidationSettings(collection="no-such-dataset")
    plan = dry_run(contrastive_config(base, tmp_path / "run", document_length=64, validation=unknown))
    assert len(plan.problems) == 1 and plan.problems[0].startswith("validation: no-such-dataset is neither ")


def test_datasets_are_named_but_not_read(base: Path, tmp_path: Path) -> None:
    config = adaptation_config(base, tmp_path / "run")
    plan = dry_run(type(config)(**{**vars(config), "corpus": "irds:msmarco-passage"}))
    assert dict(plan.facts)["data"] == "irds:msmarco-passage: docs; not read by the dry run, since that may download it"
    assert not plan.problems


def test_a_tokenizer_that_does_not_fit(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "llama", tmp_path / "small")
    config = json.loads((tmp_path / "small/config.json").read_text())
    (tmp_path / "small/config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    plan = dry_run(contrastive_config(base, tmp_path / "run", model=tmp_path / "small", document_length=64))
    assert len(plan.problems) == 1
    assert plan.problems[0].startswith("the tokenizer does not fit the model: its ids go up to ")


def test_the_tokenizer_is_loaded_at_the_revision(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision belongs to the run's model; a stand-in of the same shape has other revisions."""
    asked = []

    def from_pretrained(name: str, revision: str | None = None, **_: Any) -> Any:
        asked.append((Path(name).name, revision))
        return models.tokenizer()

    config = contrastive_config(base, tmp_path / "run", "not there yet", revision="next")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    dry_run(config, like=str(base / "llama-tied"))
    shutil.copytree(base / "llama", config.model)  # stands for a model of the hub
    dry_run(config)
    assert asked == [("llama-tied", None), ("not there yet", "next")]


def test_adaptation(base: Path, tmp_path: Path) -> None:
    plan = dry_run(adaptation_config(base, tmp_path / "run", batch_size=4, gradient_accumulation_steps=2))
    assert plan.problems == []
    assert plan.tokens == 3 * 4 * 16
    assert plan.memory["head"] < 2e9 and plan.memory["representations"] == 0
    plan = dry_run(adaptation_config(base, tmp_path / "run", batch_size=512))
    assert "fewer than a batch" in plan.problems[0]


def test_a_run_that_does_not_fit_is_reported(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert any("GB, but 5.0 GB are free" in text for text in dry_run(config, like="meta-llama/Llama-3.1-8B").problems)
    with pytest.raises(ConfigError, match="unknown GPU 'h1000': choose one of a100-40gb, .*h200"):
        dry_run(config, gpu="h1000")
    with pytest.raises(ConfigError, match="batch_size 24, the total over all processes, cannot be divided by 5 proc"):
        dry_run(config, gpus=5)
    with pytest.raises(ConfigError, match="gpus must be positive, found 0"):
        dry_run(config, gpus=0)
    adaptation = adaptation_config(base, tmp_path / "run", batch_size=4, gradient_accumulation_steps=2)
    with pytest.raises(ConfigError, match="cannot be divided by 4 processes and 2 gradient accumulation steps"):
        dry_run(adaptation, gpus=4)


def test_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    text = f"model: {base / 'llama'}\noutput: {tmp_path / 'run'}\ndata: {base / 'rows.jsonl'}\nlearning_rate: 1e-3\nsteps: 2\n"
    path.write_text(text + "batch_size: 4\ndocument_length: 64\n")
    assert main(["train", str(path), "--dry-run", "--gpu", "h200", "--gpus", "2"]) == 0
    assert "2 x h200" in capsys.readouterr().out
    path.write_text(text + "batch_size: 4\nnegatives: 1\nkl_weight: 1\n")
    assert main(["train", str(path), "--dry-run"]) == 2
    output = capsys.readouterr()
    assert "PROBLEM          100% of the rows have no teacher's scores" in output.out
    assert output.err.startswith(f"pyterrier-csplade: {path}: 100% of the rows have no teacher's scores")
    assert not (tmp_path / "run").exists()
