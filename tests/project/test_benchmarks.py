"""The benchmarks for a GPU run on a CPU at small sizes."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


HEADS = ["--width", "32", "--vocabulary", "6000", "--texts", "4", "--length", "8", "--repeat", "1", "--device", "cpu"]


def test_heads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch, "compile", lambda **options: lambda function: function)
    run(monkeypatch, "head.py", *HEADS, "--dtype", "float32")
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["product alone", "streamed", "compiled", "screened", "fastest"]
    assert all("entries of one alone 0" in line for line in said[1:4])


def test_a_head_that_does_not_compile_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def compile(**options: bool) -> Callable[[Any], Any]:
        def broken(*args: Any) -> Any:
            raise RuntimeError("no compiler\nfound")

        return lambda function: broken

    monkeypatch.setattr(torch, "compile", compile)
    run(monkeypatch, "head.py", *HEADS, "--dtype", "float32")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "compiled: left out, it does not compile here (no compiler)"
    assert [line.split(":")[0] for line in said[1:]] == ["product alone", "streamed", "screened", "fastest"]


def test_a_model_on_an_accelerator(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "accelerator.py", "--shape", "small", "--docs", "9", "--device", "cpu", "--settings", "bfloat16", "none")
    said = capsys.readouterr().out
    assert re.search(r"^bfloat16: [\d.,]+ passages/s, [\d,]+ tokens/s, [\d.]+% utilisation$", said, re.MULTILINE)
    assert re.search(r"^query, bfloat16: [\d.]+ ms$", said, re.MULTILINE)
    assert re.search(r"^query, none: .*none", said, re.MULTILINE)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("kind", ["cut", "corpus"])
def test_rewriting_of_a_large_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    shape = ["--vocabulary", "800", "--width", "32", "--intermediate", "48", "--layers", "2", "--kind", kind]
    run(monkeypatch, "vocabulary_rewriting.py", str(tmp_path), *shape)
    assert re.fullmatch(
        rf"{kind}: 0.00 GB in 4 files, [\d.]+ s, peak [\d.]+ GB \(libraries alone [\d.]+ GB\)\n", capsys.readouterr().out
    )


def test_share_of_the_head(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["--width", "32", "--intermediate", "48", "--heads", "2", "--groups", "1", "--layers", "2", "--length", "8"]
    run(monkeypatch, "head_share.py", *shape, "--vocabularies", "600", "300", "--repeat", "1", "--device", "cpu")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 layers: ") and said[0].endswith(" ms for 32 tokens")
    assert re.fullmatch(r"600 tokens: head [\d.]+ ms, [\d.]+ % of the time, encoding takes 1.000 of the first", said[1])
    assert said[2].startswith("300 tokens: ") and len(said) == 3
