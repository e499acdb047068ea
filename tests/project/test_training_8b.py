"""The benchmark of training an 8B model, with a small model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT

SCRIPT = ROOT / "benchmarks/training_8b.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("training_8b", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("method", "heads"),
    [
        ("qlora", []),
        pytest.param("qlora", ["head, eager", "head, torch.compile", "head, streamed"], marks=pytest.mark.slow),
        pytest.param("lora", [], marks=pytest.mark.slow),
    ],
)
def test_every_part_runs_on_a_cpu(
    benchmark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, method: str, heads: list[str]
) -> None:
    """The compiler takes most of the time of the heads."""
    parts = f"{method},head" if heads else method
    benchmark.main(["--tiny", "--steps", "4", "--folder", str(tmp_path), "--parts", parts])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    found = {point["part"]: point for point in map(json.loads, lines)}
    phases = [f"{method}, {phase}" for phase in ("adaptation", "contrastive")]
    assert list(found) == ["ceiling", *phases, *heads]
    for name in phases:
        point = found[name]
        assert point["last_loss"] < point["first_loss"], name
        assert 0 < point["model_flops_of_ceiling"] < point["done_flops_of_ceiling"]
        assert point["tokens_per_s"] > 0 and point["peak_gb"] > 0


def test_without_a_gpu_it_says_so(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if benchmark.DEVICE.type == "cuda":
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        benchmark.main([])
    assert "there is no GPU here: --tiny tries the command in a small shape" in capsys.readouterr().err
