"""The commands in the documentation accept the arguments shown with them."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from typing import Any

import pytest

from inside.cli import _parser
from support.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "pyterrier_csplade" / "tiny" / "MODEL_CARD.md",
    *sorted((ROOT / "pyterrier_csplade" / "pt_docs").glob("*.rst")),
    *sorted((ROOT / "examples").rglob("README.md")),
]
TEXT = "\n".join(page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES)
# A command without arguments, such as ``pyterrier-csplade encode``, is prose.
COMMANDS = re.findall(r"(?:pyterrier-csplade|-m pyterrier_csplade) ((?:demo|\w[\w-]* [^\n`;&|#]+)[^\n`;&|#]*)", TEXT)
BENCHMARKS = re.findall(r"python (benchmarks/\w+\.py[^\n`;&|#]*)", TEXT)


class Parsed(Exception):  # noqa: N818
    """Raised when a script has accepted its arguments."""


def subcommands() -> dict[str, argparse.ArgumentParser]:
    return next(action.choices for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))


def test_every_help_ends_with_two_examples() -> None:
    for name, parser in {"": _parser(), **subcommands()}.items():
        *_, head, first, second = parser.format_help().splitlines()
        assert head == "examples:"
        for example in (first, second):
            command = example.removeprefix("  pyterrier-csplade ").partition(" && ")[0]
            assert command != example and command.startswith(name)
            assert callable(_parser().parse_args(shlex.split(command)).run)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert {command.split()[0] for command in COMMANDS} == subcommands().keys()
    for command in COMMANDS:
        assert callable(_parser().parse_args(shlex.split(command)).run)


def test_every_option_is_documented() -> None:
    options = {option for parser in subcommands().values() for action in parser._actions for option in action.option_strings}
    assert {option for option in options if not re.search(rf"{option}\b", TEXT)} == {"-h"}


@pytest.mark.parametrize("command", sorted(set(BENCHMARKS)))
def test_benchmarks(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        original(self, args, namespace)
        raise Parsed

    original = argparse.ArgumentParser.parse_args
    script, *arguments = shlex.split(command)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


def test_every_benchmark_is_named_somewhere() -> None:
    scripts = {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")}
    assert {name for name in scripts if f"benchmarks/{name}" not in TEXT} <= {
        "engine_bmp.py",
        "engine_splade_index.py",
        "synthetic.py",
    }


def test_options_of_pytest_and_extras_of_pip_exist() -> None:
    settings, setup = (ROOT / "setup.cfg").read_text(), (ROOT / "setup.py").read_text()
    for marker in re.findall(r"pytest[^`\n]* -m (\w+)|`-m (\w+)`", TEXT):
        assert f"    {''.join(marker)}: " in settings
    for test in re.findall(r"pytest[^`\n]* (tests/[\w/]+\.py)", TEXT):
        assert (ROOT / test).is_file()
    extras = set(re.findall(r"(?:pyterrier-csplade|\.)\[([\w-]+)\]", TEXT))
    assert len(extras) > 5
    for extra in extras:
        assert f'"{extra}": ' in setup
