"""The command line: exit statuses, messages, and lazy imports."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import pyterrier_csplade
from inside.cli import demo, main
from pyterrier_csplade import CspladeError


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_loads_nothing_heavy(option: str) -> None:
    code = (
        "import sys; from pyterrier_csplade.cli import main\n"
        f"try: main([{option!r}])\n"
        "finally: sys.stderr.write(str({'torch', 'transformers', 'pyterrier', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()"
    expected = "usage: pyterrier-csplade" if option == "--help" else f"pyterrier-csplade {pyterrier_csplade.__version__}\n"
    assert done.stdout.startswith(expected)


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["train"], ["demo", "--no-such-option"], ["adapt", "a", "b"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: pyterrier-csplade" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["adapt", "train"])
def test_a_missing_configuration(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path / "none.yaml")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("pyterrier-csplade: ") and "none.yaml" in output.err


def test_a_mistyped_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("modle: x\n", encoding="utf-8")
    assert main(["adapt", str(config)]) == 2
    assert "unknown setting 'modle'; did you mean 'model'?" in capsys.readouterr().err


def test_a_run_without_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_demonstration_with_a_file_as_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("", encoding="utf-8")
    assert main(["demo", "--output", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(path) in error


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("command", "config_class"), [("adapt", "AdaptationConfig"), ("train", "ContrastiveConfig")])
def test_training_gets_the_configuration(
    command: str, config_class: str, resume: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyterrier_csplade import training

    calls: list[Any] = []

    def run(config: Any, *, resume: bool) -> Path:
        calls.append((config, resume))
        return Path("trained")

    monkeypatch.setattr(training, "load_config", lambda path, read_as: (path, read_as))
    monkeypatch.setattr(training, command, run)
    assert main([command, "run.yaml", *(["--resume"] if resume else [])]) == 0
    assert calls == [((Path("run.yaml"), getattr(training, config_class)), resume)]
    assert capsys.readouterr().out.endswith("model: trained\n")


def test_the_demonstration_gets_the_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def run(model: Any, output: Path, *, name: str, say: Any) -> None:
        say(f"{model} {name} {output}")
        warnings.warn("one document was cut", stacklevel=1)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "available_model", lambda say: ("the model", "csplade-tiny"))
    monkeypatch.setattr(demo, "run_demo", run)
    assert main(["demo"]) == 0
    assert main(["demo", "--output", "elsewhere"]) == 0
    output = capsys.readouterr()
    assert output.out == "the model csplade-tiny csplade-demo\nthe model csplade-tiny elsewhere\n"
    assert output.err == "pyterrier-csplade: warning: one document was cut\n" * 2


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CspladeError("first line\n  second line"), 2, "pyterrier-csplade: first line second line\n"),
        (KeyboardInterrupt(), 130, "\npyterrier-csplade: interrupted\n"),
    ],
)
def test_errors_are_one_line(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyterrier_csplade import training

    def fail(run: Path) -> Path:
        raise error

    monkeypatch.setattr(training, "plot_curves", fail)
    assert main(["plot", "run"]) == status
    assert capsys.readouterr().err == message


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyterrier_csplade import training

    monkeypatch.setattr(training, "plot_curves", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["plot", "run"])
