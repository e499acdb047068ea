"""Launchers: the shipped configurations, too few processes, killed ones, FSDP, DeepSpeed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from inside.training import contrastive, last_checkpoint
from pyterrier_csplade import ConfigError
from pyterrier_csplade.training import LoraSettings, ValidationSettings, adapt, train
from support import models
from support.paths import TESTS
from support.processes import torchrun
from support.training_runs import adaptation_config, contrastive_config, log_of, make_base
from support.validated_runs import VALIDATED, check_validated, validation

CONFIGS = TESTS.parent / "examples/configs/accelerate"
SETTINGS: dict[str, Any] = {
    "batch_size": 8, "steps": 5, "lambda_query": 0.01, "lambda_document": 0.02, "flops_warmup_steps": 2, "save_steps": 3,
}  # fmt: skip
LORA: dict[str, Any] = {"rank": 2, "dropout": 0.0}
ADAPTATION: dict[str, Any] = {"batch_size": 8, "steps": 5, "save_steps": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three models, one wide enough for blocks of 64 weights, and training data."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    models.language_model(hidden_size=64, intermediate_size=128).save_pretrained(folder / "llama-64")
    models.tokenizer().save_pretrained(folder / "llama-64")
    return folder


@pytest.mark.parametrize(
    ("name", "processes", "machines", "kind"),
    [("gpu-1", 1, 1, "NO"), ("fsdp-8x40gb", 8, 1, "FSDP"), ("fsdp-2x8", 16, 2, "FSDP"), ("deepspeed-zero3", 8, 1, "DEEPSPEED")],
)
def test_shipped_configurations_of_accelerate(name: str, processes: int, machines: int, kind: str) -> None:
    config: Any = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines, config.mixed_precision) == (processes, machines, "bf16")
    assert str(config.distributed_type).endswith(kind)
    assert f"examples/configs/accelerate/{name}.yaml" in (CONFIGS / f"{name}.yaml").read_text()
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2


def test_one_process_where_several_were_asked_for_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment in which accelerate runs one process on CPUs though it was asked for two."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ConfigError, match="accelerate was asked for several processes but started this one alone"):
        train(contrastive_config(base, tmp_path / "run"))


@pytest.mark.parametrize("flag", ["true", "True", "1"])
def test_qlora_under_deepspeed_is_refused_before_anything_is_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", flag)
    monkeypatch.setattr(contrastive, "load_tokenizer_and_model", lambda *args: pytest.fail("loaded"))
    config = contrastive_config(base, tmp_path / "run", lora=LoraSettings(**LORA), quantization="nf4")
    with pytest.raises(ConfigError, match="DeepSpeed cannot shard 4-bit weights: launch with FSDP"):
        train(config)


def test_the_configuration_decides_on_bfloat16(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [train(contrastive_config(base, tmp_path / f"alone-{bf16}", bf16=bf16)) for bf16 in (False, True)]
    assert log_of(alone[False]) != log_of(alone[True])
    for bf16 in (False, True):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no" if bf16 else "bf16")  # as a launcher sets it
        launched = train(contrastive_config(base, tmp_path / f"launched-{bf16}", bf16=bf16))
        assert log_of(launched) == log_of(alone[bf16])


@pytest.mark.slow
def test_accelerate_launch_with_too_few_processes(base: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.json"
    settings = {"model": str(base / "llama"), "data": str(base / "rows.jsonl"), "output": str(tmp_path / "run")}
    config.write_text(json.dumps(settings | {"learning_rate": 1e-3, "steps": 1, "batch_size": 4, "bf16": False}))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "pyterrier_csplade"]
    env = os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "train", str(config)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "started this one alone" in done.stderr
    assert not (tmp_path / "run/model.safetensors").exists()


def shipped(kind: str) -> dict[str, str]:
    """The environment that accelerate makes of a shipped configuration, but in float32."""
    if kind == "fsdp":
        settings = yaml.safe_load((CONFIGS / "fsdp-8x40gb.yaml").read_text())["fsdp_config"]
        return {name.upper(): str(value) for name, value in settings.items()} | {"ACCELERATE_USE_FSDP": "true"}
    settings = yaml.safe_load((CONFIGS / "deepspeed-zero3.yaml").read_text())["deepspeed_config"]
    names = {"gradient_accumulation_steps": "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"}
    names |= {"gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING", "zero3_init_flag": "ACCELERATE_DEEPSPEED_ZERO3_INIT"}
    env = {names.get(name, f"ACCELERATE_DEEPSPEED_{name.upper()}"): str(value) for name, value in settings.items()}
    return env | {"ACCELERATE_USE_DEEPSPEED": "true"}


POOLED: dict[str, Any] = {
    "objective": "pooled", "passages": {"shortest": 4, "longest": 16}, "prediction_weight": 0.3, "target_nnz": 100,
}  # fmt: skip
MIXED: dict[str, Any] = {"lexical": {"others_weight": 0.01}, "adaptation_weight": 0.5, "temperature": "auto"}
RUNS: list[dict[str, Any]] = [
    {"name": "full"},
    {"name": "lora", "lora": LORA},
    {"name": "resumed", "terminate_at": 2, "keep_checkpoints": 9},
    {"name": "resumed", "resume": True, "keep_checkpoints": 9},
    {"name": "adapted", "phase": "adaptation"},
    {"name": "pooled", "phase": "adaptation", **POOLED},
    {"name": "mixed", **MIXED},
    {"name": "half", "bf16": True, "lora": LORA},
]
QLORA = {"lora": LORA, "quantization": "nf4", "model": "llama-64"}
# What DeepSpeed refuses.
QLORA_RUNS: list[dict[str, Any]] = [
    {"name": "half qlora", "bf16": True, **QLORA},
    {"name": "qlora", "gradient_checkpointing": True, **QLORA},
    {"name": "resumed qlora", "terminate_at": 2, "keep_checkpoints": 9, "gradient_checkpointing": True, **QLORA},
    {"name": "resumed qlora", "resume": True, "keep_checkpoints": 9, "gradient_checkpointing": True, **QLORA},
]


@pytest.fixture(scope="module", params=["fsdp", "deepspeed"])
def sharded(request: pytest.FixtureRequest, base: Path) -> Path:
    """Runs of two processes on CPUs, sharded as in the shipped configurations."""
    if request.param == "deepspeed":
        pytest.importorskip("deepspeed", reason="pip install deepspeed")
    wanted = [*RUNS, *QLORA_RUNS] if request.param == "fsdp" else RUNS
    runs = [json.dumps({**(ADAPTATION if "phase" in run else SETTINGS), **run}) for run in wanted]
    runs.append(json.dumps({"name": "validated", **SETTINGS, **VALIDATED, "validation": validation(base)}))
    output = base / request.param
    done = torchrun(2, str(TESTS / "support" / "sharded_runs.py"), str(base), str(output), *runs, env=shipped(request.param))
    assert done.returncode == 0, done.stderr[-3000:]
    state = {"fsdp": "pytorch_model_fsdp.bin", "deepspeed": "global_step5"}[request.param]
    assert (output / "full/checkpoints/checkpoint-5" / state).exists()
    return output


def skip_without_4_bits(sharded: Path) -> None:
    if sharded.name == "deepspeed":
        pytest.skip("DeepSpeed cannot shard 4-bit weights")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "adapted", "pooled", "mixed", "qlora"])
def test_sharded_runs_end_as_one_process(base: Path, sharded: Path, tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"lora": LoraSettings(**LORA)} if "lora" in name else {}
    if name == "qlora":
        skip_without_4_bits(sharded)
        settings |= {"model": "llama-64", "quantization": "nf4"}
    settings |= {"pooled": POOLED, "mixed": MIXED}.get(name, {})
    if name in ("adapted", "pooled"):
        one = adapt(adaptation_config(base, tmp_path / "one", **ADAPTATION, **settings))
    else:
        one = train(contrastive_config(base, tmp_path / "one", **settings, **SETTINGS))
    for figure in ("loss", "grad_norm"):
        assert log_of(sharded / name, figure) == pytest.approx(log_of(one, figure), rel=1e-5), figure
    weights = [load_file(run / "model.safetensors") for run in (one, sharded / name)]
    for parameter, values in weights[0].items():
        torch.testing.assert_close(weights[1][parameter], values, rtol=1e-4, atol=1e-5)
    if "lora" in name:
        reports = [json.loads((run / "merge_parity.json").read_text()) for run in (one, sharded / name)]
        assert reports[1] == pytest.approx(reports[0], rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_sharded_runs_validate_as_one_process(base: Path, sharded: Path, tmp_path: Path) -> None:
    settings = SETTINGS | VALIDATED | {"validation": ValidationSettings(**validation(base))}
    check_validated(train(contrastive_config(base, tmp_path / "one", **settings)), sharded / "validated")


@pytest.mark.slow
def test_bfloat16_runs_rank_in_float32(base: Path, sharded: Path, tmp_path: Path) -> None:
    names = ["half", *(["half qlora"] if sharded.name == "fsdp" else [])]
    for name in names:
        losses = torch.tensor(log_of(sharded / name))
        assert not torch.equal(losses, losses.bfloat16().float()), name
        model = "llama-64" if "qlora" in name else "llama"
        one = train(contrastive_config(base, tmp_path / name, model, lora=LoraSettings(**LORA), **SETTINGS))
        assert log_of(sharded / name)[0] == pytest.approx(log_of(one)[0], rel=0.05 if name == "half" else 0.2)
        assert load_file(sharded / name / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("whole", "resumed"), [("full", "resumed"), ("qlora", "resumed qlora")])
def test_a_sharded_run_goes_on_exactly(sharded: Path, whole: str, resumed: str) -> None:
    if "qlora" in whole:
        skip_without_4_bits(sharded)
    assert (sharded / resumed / "checkpoints/checkpoint-2").is_dir()
    for figure in ("loss", "grad_norm", "flops_document", "lambda_document"):
        assert log_of(sharded / resumed, figure) == log_of(sharded / whole, figure)
    weights = [load_file(sharded / name / "model.safetensors") for name in (whole, resumed)]
    assert all(torch.equal(values, weights[1][name]) for name, values in weights[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora", "half", "qlora", "half qlora"])
def test_each_process_holds_its_part_of_the_layers_only(sharded: Path, name: str) -> None:
    """Half of the bytes, or all bytes of 4-bit weights, with two weights per byte."""
    if sharded.name == "deepspeed":
        pytest.skip("asked of FSDP only")
    numbers = [json.loads((sharded / name / f"held-{rank}.json").read_text()) for rank in range(2)]
    if "qlora" in name:
        lm = models.language_model(hidden_size=64, intermediate_size=128)
        weights = [w for n, w in lm.model.layers.named_parameters() if n.split(".")[-2] in LoraSettings().target_modules]
        assert all(number["held"] == sum(weight.numel() for weight in weights) / 2 for number in numbers)
        return
    assert numbers[0]["whole"] == numbers[1]["whole"] == sum(number["held"] for number in numbers)
    assert max(number["held"] for number in numbers) <= 0.51 * numbers[0]["whole"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_run(base: Path, tmp_path: Path) -> None:
    """The launcher's exit status says so, and what is on disk is whole."""
    run = {"name": "run", **SETTINGS, "steps": 5000, "save_steps": 2}
    arguments = [
        "--nproc-per-node",
        "2",
        str(TESTS / "support" / "distributed_runs.py"),
        str(base),
        str(tmp_path),
        json.dumps(run),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments]
    launcher = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "run/checkpoints"
    while not list(checkpoints.glob("checkpoint-*")) and launcher.poll() is None:
        time.sleep(0.05)
    listed = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(listed[-1]), signal.SIGKILL)
    assert launcher.wait(timeout=120) != 0
    assert last_checkpoint(checkpoints) is not None
