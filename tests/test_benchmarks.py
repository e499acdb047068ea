"""The benchmarks for a GPU, run on a CPU at sizes that say nothing: that they work when somebody has one."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


def test_heads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--width", "32", "--vocabulary", "6000", "--texts", "4", "--length", "8", "--repeat", "1"]
    run(monkeypatch, "head.py", *sizes, "--device", "cpu", "--dtype", "float32")
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()] == ["product alone", "streamed", "screened", "fastest"]
    assert "entries of one alone 0" in said.splitlines()[2]


def test_a_model_on_an_accelerator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "accelerator.py", "--shape", "small", "--docs", "9", "--device", "cpu", "--settings", "bfloat16", "none")
    said = capsys.readouterr().out
    assert re.search(r"^bfloat16: [\d.,]+ passages/s, [\d,]+ tokens/s, [\d.]+% utilisation$", said, re.MULTILINE)
    assert re.search(r"^query, bfloat16: [\d.]+ ms$", said, re.MULTILINE)
    assert re.search(r"^query, none: .*none", said, re.MULTILINE)
    assert torch.get_default_dtype() == torch.float32
