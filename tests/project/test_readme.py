"""Every code block of the README runs, in order, as if pasted by a user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyterrier_csplade.data import python_docs as _datasets
from support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_blocks_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses a tenth of the collection; the demo encodes all of it."""
    every_tenth = [doc for i, doc in enumerate(_datasets._docs()) if i % 10 == 0 or doc.docno.startswith("textwrap.")]
    monkeypatch.setattr(_datasets, "_docs", lambda: every_tenth)
    monkeypatch.setattr(_datasets, "_texts", lambda: {doc.docno: doc.body for doc in every_tenth})
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 4
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    fused, *sides = (set(names[name].search("wrap text")["docno"]) for name in ("fused", "bm25", "retriever"))  # type: ignore[attr-defined]
    assert fused == set.union(*sides) and len(fused) >= 100 and all(sides)
    results = names["retriever"].search("wrap a paragraph to a given width")  # type: ignore[attr-defined]
    assert {"textwrap.wrap", "textwrap.fill", "textwrap.TextWrapper"} & set(results["docno"].head(3))


def test_shell_blocks_name_commands_and_files_that_exist() -> None:
    from inside.cli import _parser

    for line in "".join(blocks("sh")).splitlines():
        for command in line.split(" && "):
            program, *arguments = command.split()
            if program == "pyterrier-csplade":
                _parser().parse_args(arguments)
            for argument in arguments:
                if argument.endswith(".yaml"):
                    assert (ROOT / argument).is_file()


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for line in (line for block in blocks("sh") for line in block.splitlines() if line.startswith("pip install")):
        for command in line.split(" && "):
            assert command.replace("pip install", "pip install -q") in script or command in script


def test_first_code_is_on_the_first_screen_and_the_readme_is_short() -> None:
    lines = README.splitlines()
    assert lines.index("```sh") < 30
    assert len(lines) < 150
