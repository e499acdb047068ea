"""The same result on one process, on several, and with gradient accumulation."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, set_hf_deepspeed_config, unset_hf_deepspeed_config

from inside.training import (
    Collator,
    ContrastiveObjective,
    GradientCache,
    Labels,
    batches,
    distributed,
    ranking_loss,
    run,
    trainer,
)
from pyterrier_csplade import ConfigError, Contract, QueryTable
from pyterrier_csplade.model import Backbone
from pyterrier_csplade.training import LoraSettings, ValidationSettings, adapt, train
from support import models
from support.paths import TESTS
from support.processes import forked, torchrun
from support.training_runs import adaptation_config, contrastive_config, log_of, make_base
from support.validated_runs import VALIDATED, check_validated, validation

# Batches of 8 queries over two epochs, with regularisers that are heavy enough to matter.
SETTINGS: dict[str, Any] = {
    "batch_size": 8, "steps": 5, "lambda_query": 0.01, "lambda_document": 0.02, "flops_warmup_steps": 2, "learning_rate": 1e-3,
    "warmup_steps": 2,
}  # fmt: skip


ADAPTATION: dict[str, Any] = {"batch_size": 8, "steps": 4, "learning_rate": 1e-3, "warmup_steps": 1}
POOLED: dict[str, Any] = {
    **ADAPTATION, "objective": "pooled", "passages": {"shortest": 4, "longest": 16, "document_prefix": "the: "},
    "prediction_weight": 0.3, "target_nnz": 100,
}  # fmt: skip
MIXED: dict[str, Any] = {"lexical": {"others_weight": 0.01}, "adaptation_weight": 0.5, "temperature": "auto"}
TABLE: dict[str, Any] = {"query": {"encoder": "table"}}
LORA: dict[str, Any] = {"rank": 2, "dropout": 0.0}
QLORA: dict[str, Any] = {"model": "llama-64", "quantization": "nf4"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three models, one wide enough for blocks of 64 weights, and training data."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    models.language_model(hidden_size=64, intermediate_size=128).save_pretrained(folder / "llama-64")
    models.tokenizer().save_pretrained(folder / "llama-64")
    return folder


# Names of runs have the numbers of processes, of parts of a batch, and of rows of a part.
PARTS: dict[str, Any] = {"gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def two_processes(base: Path) -> Path:
    """Runs of two processes, forks of one; both kinds of batches, whole and in parts, for both phases and with 4 bits."""
    runs = [
        {"name": "2x4", **SETTINGS},
        {"name": "stopped", "terminate_at": 2, "only": 1, "number": signal.SIGINT, **SETTINGS},
        {"name": "stopped", "resume": True, **SETTINGS},
        {"name": "adapted 2x2x2", "phase": "adaptation", **PARTS, **ADAPTATION},
        {"name": "pooled 2x2x2", "phase": "adaptation", **PARTS, **POOLED},
        {"name": "mixed 2x4", **SETTINGS, **MIXED},
        {"name": "table 2x2x2", **PARTS, **SETTINGS, **TABLE},
        {"name": "validated", **SETTINGS, **VALIDATED, "validation": validation(base)},
        {"name": "qlora 2x2x2", "lora": LORA, **PARTS, **QLORA, **SETTINGS},
    ]
    done = forked(2, str(base), str(base / "two"), *map(json.dumps, runs))
    assert done.returncode == 0, done.stderr[-3000:]
    return base / "two"


@pytest.fixture(scope="module")
def more_of_two_processes(base: Path) -> Path:
    """The other kind of batches for each, and adaptation with adapters, in processes that torchrun starts."""
    runs = [
        {"name": "2x2x2", **PARTS, **SETTINGS},
        {"name": "adapted 2x4", "phase": "adaptation", **ADAPTATION},
        {"name": "adapted lora", "phase": "adaptation", "lora": LORA, **ADAPTATION},
        {"name": "pooled 2x4", "phase": "adaptation", **POOLED},
        {"name": "qlora 2x4", "lora": LORA, **QLORA, **SETTINGS},
        {"name": "adapted qlora", "phase": "adaptation", "lora": LORA, **QLORA, **ADAPTATION},
    ]
    done = torchrun(2, str(TESTS / "support" / "distributed_runs.py"), str(base), str(base / "more"), *map(json.dumps, runs))
    assert done.returncode == 0, done.stderr[-3000:]
    return base / "more"


def check_equal(first: Path, second: Path) -> None:
    for name in ("loss", "rank_loss", "flops_query", "flops_document", "nnz_document", "accuracy", "grad_norm"):
        assert log_of(first, name) == pytest.approx(log_of(second, name), rel=1e-5), name
    check_weights(first, second)


def check_weights(first: Path, second: Path) -> None:
    weights = [load_file(run / "model.safetensors") for run in (first, second)]
    for name, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][name], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def one_process(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs of one process by the name of those of two; each is made once."""
    made: dict[tuple[bool, str], Path] = {}

    def run(name: str) -> Path:
        method = "qlora" if "qlora" in name else "lora" if "lora" in name else ""
        key = (name.startswith("adapted"), method)
        if key not in made:
            settings: dict[str, Any] = QLORA if method == "qlora" else {}
            lora = LoraSettings(**LORA) if method else None
            output = tmp_path_factory.mktemp("one") / "run"
            if key[0]:
                made[key] = adapt(adaptation_config(base, output, lora=lora, **settings, **ADAPTATION))
            else:
                made[key] = train(contrastive_config(base, output, lora=lora, **settings, **SETTINGS))
        return made[key]

    return run


@pytest.mark.parametrize("name", ["2x4", "qlora 2x2x2"])
def test_two_processes_end_as_one(one_process: Callable[[str], Path], two_processes: Path, name: str) -> None:
    one = one_process(name)
    assert len(log_of(one)) == 5
    check_equal(one, two_processes / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2x2x2", "qlora 2x4", "pooled 2x4", "adapted 2x4", "adapted lora", "adapted qlora"])
def test_more_of_two_processes_end_as_one(
    base: Path, one_process: Callable[[str], Path], more_of_two_processes: Path, tmp_path: Path, name: str
) -> None:
    if name.startswith("pooled"):
        check_mixed(adapt(adaptation_config(base, tmp_path / "run", **POOLED)), more_of_two_processes / name)
    elif name.startswith("adapted"):
        check_adapted(one_process(name), more_of_two_processes / name)
    else:
        check_equal(one_process(name), more_of_two_processes / name)


def test_a_signal_to_one_process_stops_all(two_processes: Path) -> None:
    check_equal(two_processes / "stopped", two_processes / "2x4")


def check_mixed(one: Path, two: Path) -> None:
    for figure in ("loss", "grad_norm", "lexical", "lexical_error", "own_live"):
        assert log_of(two, figure) == pytest.approx(log_of(one, figure), rel=1e-5), figure
    check_weights(one, two)


def check_adapted(one: Path, two: Path) -> None:
    assert len(log_of(one)) == 4
    for figure in ("loss", "grad_norm"):
        assert log_of(two, figure) == pytest.approx(log_of(one, figure), rel=1e-5), figure
    check_weights(one, two)


@pytest.mark.parametrize("name", ["pooled 2x2x2", "mixed 2x4"])
def test_two_processes_mix_as_one(base: Path, two_processes: Path, tmp_path: Path, name: str) -> None:
    if name.startswith("pooled"):
        one = adapt(adaptation_config(base, tmp_path / "run", **POOLED))
    else:
        one = train(contrastive_config(base, tmp_path / "run", **SETTINGS, **MIXED))
    check_mixed(one, two_processes / name)


def test_two_processes_learn_the_table_of_one(base: Path, two_processes: Path, tmp_path: Path) -> None:
    one = train(contrastive_config(base, tmp_path / "run", **SETTINGS, **TABLE))
    check_equal(one, two_processes / "table 2x2x2")
    tables = [QueryTable.load(run / "query_table").weights for run in (one, two_processes / "table 2x2x2")]
    assert tables[0] == pytest.approx(tables[1], rel=1e-4)


def test_two_processes_adapt_as_one(one_process: Callable[[str], Path], two_processes: Path) -> None:
    check_adapted(one_process("adapted 2x2x2"), two_processes / "adapted 2x2x2")


def test_two_processes_validate_as_one(base: Path, two_processes: Path, tmp_path: Path) -> None:
    settings = SETTINGS | VALIDATED | {"validation": ValidationSettings(**validation(base))}
    check_validated(train(contrastive_config(base, tmp_path / "one", **settings)), two_processes / "validated")


def test_a_batch_that_cannot_be_divided_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "start_processes", lambda **_: 2)
    with pytest.raises(ConfigError, match="batch_size 7, the total over all processes, cannot be divided by 2 processes"):
        train(contrastive_config(base, tmp_path / "run", batch_size=7))


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, dropout=0.5)], ids=["full", "lora"])
def test_cached_gradients_are_those_of_the_whole_graph(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: LoraSettings | None
) -> None:
    """With dropout, too: both ways cut the batch into the same parts here, so that they draw the same random numbers."""
    monkeypatch.setattr(batches, "_CHUNK", 4)
    runs = []
    for accumulation in (1, 2):
        settings = SETTINGS | {"steps": 3, "gradient_accumulation_steps": accumulation}
        settings["gradient_checkpointing"] = accumulation == 2
        runs.append(train(contrastive_config(base, tmp_path / str(accumulation), lora=lora, **settings)))
    check_equal(*runs)


def test_cached_gradients_are_those_of_the_naive_graph() -> None:
    """The gradient of every parameter, against plain autograd over the model's own logits in one batch."""
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract())
    rows = [{"query": t[:9], "positive": t, "negatives": [u], "positives": [t], "scores": [2.0, 1.0]}
            for t, u in zip(models.TEXTS[:4], models.TEXTS[2:])]  # fmt: skip
    config = contrastive_config(Path(), Path(), kl_weight=0.5, margin_mse_weight=0.1, anti_zero_weight=0.3, temperature=20.0)
    objective = ContrastiveObjective(config)
    gradients = []
    for pieces in (1, 3):
        backbone.zero_grad()
        batch = Collator(backbone, pieces)(rows)
        cache = GradientCache(Accelerator(cpu=True), backbone, keep_graphs=pieces == 1)
        vectors = cache.encode([*batch["queries"], *batch["passages"]])
        labels = Labels(**batch["labels"])
        loss = objective(vectors[:4], vectors[4:], labels, (0.01, 0.02))[0]
        cache.backward(torch.autograd.grad(loss, vectors)[0])
        gradients.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
    backbone.zero_grad()
    batch = Collator(backbone)(rows)
    queries, passages = (
        torch.cat([torch.log1p(torch.relu(backbone.reference_logits(**part))) for part in batch[side]])
        for side in ("queries", "passages")
    )
    objective(queries, passages, Labels(**batch["labels"]), (0.01, 0.02))[0].backward()  # type: ignore[no-untyped-call]
    naive = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    for found in gradients:
        assert set(found) == set(naive)
        for name, gradient in naive.items():
            assert gradient is not None
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_negatives_of_the_papers_batch() -> None:
    """32 queries with 16 passages each: 511 negatives for a query, the positive's place is known."""
    rows = [
        {"query": f"q{i}", "positive": f"p{i}", "negatives": [f"n{i} {k}" for k in range(15)], "positives": [f"p{i}"],
         "scores": None} for i in range(32)
    ]  # fmt: skip
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract())
    labels = Labels(**Collator(backbone)(rows)["labels"])
    assert len(labels.texts) == 512 and not labels.excluded.any()
    scores = torch.zeros(32, 512)
    assert float(ranking_loss(scores, labels.targets, labels.excluded)) == pytest.approx(math.log(512))
    # The layout of the paper's peers, each query's 16 passages together, is another order of the same batch.
    order = torch.argsort(labels.owners * 2 + 1 - (torch.arange(512) == labels.targets[labels.owners]).long(), stable=True)
    assert [int(order[16 * i]) for i in range(32)] == labels.targets.tolist()


@pytest.mark.parametrize("missing", [None, "LossScaler"])
def test_what_deepspeed_may_load(monkeypatch: pytest.MonkeyPatch, missing: str | None) -> None:
    """Its own settings, by classes that are no public interface; without one, only checkpoints that hold it are refused."""
    classes = {}
    for name, attribute in distributed._SETTINGS.items():
        module = ModuleType(name)
        if attribute != missing:
            classes[attribute] = type(attribute, (), {})
            setattr(module, attribute, classes[attribute])
        for end in range(name.count(".")):
            monkeypatch.setitem(sys.modules, name.rsplit(".", end + 1)[0], ModuleType("package"))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    with distributed.values_only():
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
        assert set(classes.values()) <= set(torch.serialization.get_safe_globals())
    assert len(classes) == (2 if missing else 3) and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


class Stage3:
    """Settings of DeepSpeed, as transformers keeps them."""

    def is_zero3(self) -> bool:
        return True


@pytest.mark.parametrize("known", [True, False])
def test_whole_models_are_loaded_without_zero3(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    settings = Stage3()
    set_hf_deepspeed_config(settings)
    assert is_deepspeed_zero3_enabled()
    if not known:
        monkeypatch.setattr(trainer, "_ZERO_SETTING", "_none")
    with trainer.unsharded():
        assert not is_deepspeed_zero3_enabled()
    assert is_deepspeed_zero3_enabled() == known
    unset_hf_deepspeed_config()
