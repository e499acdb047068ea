"""Launchers: the shipped configurations, too few processes, killed ones, FSDP."""

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
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from processes import TESTS, torchrun
from training_runs import contrastive_config, log_of, make_base

from pyterrier_csplade import CSPLADE, ConfigError
from pyterrier_csplade.training import LoraSettings, train
from pyterrier_csplade.training._checkpoints import last_checkpoint

CONFIGS = TESTS.parent / "examples/configs/accelerate"
SETTINGS: dict[str, Any] = {
    "batch_size": 8, "steps": 5, "lambda_query": 0.01, "lambda_document": 0.02, "flops_warmup_steps": 2, "save_steps": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and training data."""
    return make_base(tmp_path_factory.mktemp("base"))


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


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 2, "dropout": 0.0}], ids=["full", "lora"])
def test_fsdp_ends_as_one_process(base: Path, tmp_path: Path, lora: Any) -> None:
    """With the settings that are shipped, but in float32 and with two processes on CPUs."""
    shipped = yaml.safe_load((CONFIGS / "fsdp-8x40gb.yaml").read_text())["fsdp_config"]
    env = {name.upper(): str(value) for name, value in shipped.items()} | {"ACCELERATE_USE_FSDP": "true"}
    run = {"name": "fsdp", "lora": lora, **SETTINGS}
    done = torchrun(2, str(TESTS / "fsdp_runs.py"), str(base), str(tmp_path), json.dumps(run), env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "fsdp/checkpoints/checkpoint-5/pytorch_model_fsdp.bin").exists()
    one = train(contrastive_config(base, tmp_path / "one", lora=lora and LoraSettings(**lora), **SETTINGS))
    for name in ("loss", "flops_document", "grad_norm"):
        assert log_of(tmp_path / "fsdp", name) == pytest.approx(log_of(one, name), rel=1e-5), name
    vectors = [CSPLADE(path).encode_docs(["An inverted index.", "dogs and cats"]) for path in (one, tmp_path / "fsdp")]
    assert abs(vectors[0] - vectors[1]).max() < 1e-4 * vectors[0].max()


@pytest.mark.slow
def test_a_killed_rank_ends_the_run(base: Path, tmp_path: Path) -> None:
    """The launcher's exit status says so, and what is on disk is whole."""
    run = {"name": "run", **SETTINGS, "steps": 5000, "save_steps": 2}
    arguments = ["--nproc-per-node", "2", str(TESTS / "distributed_runs.py"), str(base), str(tmp_path), json.dumps(run)]
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
