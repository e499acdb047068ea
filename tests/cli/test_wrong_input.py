"""Input that a command cannot use: exit status 2 and one line on stderr, without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inside.cli import main
from pyterrier_csplade import CSPLADE
from support.vector_collections import documents, encode, jsonl

#: Content of files, and what the message holds.
FILES: dict[str, tuple[bytes, str]] = {
    "twice.jsonl": (b'{"docno": "a", "text": "x"}\n' * 2, "docno 'a' of document 2 appears twice"),
    "surrogate.jsonl": (b'{"docno": "a\\ud800", "text": "x"}\n', "docno 'a\\ud800' of document 1 contains a lone surrogate"),
    "number.jsonl": (b'{"docno": 1.5, "text": "x"}\n', "docno of document 1 must be a str, found 1.5"),
    "null.jsonl": (b'{"docno": "a", "text": null}\n', "null.jsonl, document a: the field 'text' is missing or not a string"),
    "bytes.jsonl": (b'{"docno": "a", "text": "\xe4"}\n', "bytes.jsonl, line 1: not valid UTF-8"),
    "utf16.jsonl": ('{"docno": "a", "text": "x"}\n'.encode("utf-16"), "utf16.jsonl, line 1: not valid UTF-8"),
    "nul.jsonl": (b"\0\0\n", "nul.jsonl, line 1: not valid JSON"),
    "list.jsonl": (b"[]\n", "list.jsonl, line 1: expected an object"),
    "digits.jsonl": (b'{"docno": "a", "text": "x", "n": ' + b"1" * 5000 + b"}\n", "digits.jsonl, line 1: not valid JSON"),
    "deep.jsonl": (b'{"docno": ' * 50_000, "deep.jsonl, line 1: not valid JSON"),
    "a.gz": (b"not gzip", "a.gz, after line 0: cannot be read"),
    "a.json": (b'[{"docno": "a"}]', "a.json contains no documents"),
    "empty.csv": (b"", "empty.csv contains no documents"),
    "a.trec": (b"<DOC>\n<DOCNO>a</DOCNO>\n<TEXT>torn", "a.trec, line 1: the document that begins here has no line </DOC>"),
}

ENCODE = "encode docs.jsonl --model csplade-tiny --output new"

COMMANDS: dict[str, str] = {
    **{f"encode {name} --model csplade-tiny --output new": message for name, (_, message) in FILES.items()},
    "encode nothing.jsonl --model csplade-tiny --output new": "there is no file nothing.jsonl",
    "encode nothing --model csplade-tiny --output new": "there is no file, ir_datasets id or PyTerrier dataset 'nothing'",
    "encode '' --model csplade-tiny --output new": "the name of the documents is empty",
    "encode folder/empty --model csplade-tiny --output new": "folder/empty contains no files",
    "encode folder --model csplade-tiny --output new": "folder/link is not a regular file",
    "encode LONG --model csplade-tiny --output new": "name too long",
    f"{ENCODE} --fields nope": "the field 'nope' is missing",
    f"{ENCODE} --shard a": "expected a part such as 0/4",
    f"{ENCODE} --shard 1/0": "a collection has at least 1 part",
    f"{ENCODE} --shard 0/{'9' * 5000}": "expected a part such as 0/4",
    f"{ENCODE} --processes 3": "the launcher started 1 process(es), not 3",
    f"{ENCODE} --device bogus": "--device bogus cannot be used: ",
    f"{ENCODE} --device meta": "--device meta cannot be used: ",
    f"{ENCODE} --adapter folder": "adapter",
    f"{ENCODE} --revision main": "revision='main' names a version of a hub model, but ",
    "encode docs.jsonl --model csplade-tiny --output docs.jsonl": "docs.jsonl exists and is not an encoded collection",
    "encode docs.jsonl --model csplade-tiny --output docs.jsonl/new": "docs.jsonl/new",
    "encode docs.jsonl --model csplade-tiny --output folder": "folder exists and is not an encoded collection",
    "encode docs.jsonl --model csplade-tiny --output plan": "plan.json",
    "encode docs.jsonl --model csplade-tiny --output LONG": "name too long",
    "encode docs.jsonl --model docs.jsonl --output new": "docs.jsonl",
    "encode docs.jsonl --model folder --output new": "config.json",
    "verify nothing": "no encoded collection at",
    "verify docs.jsonl": "docs.jsonl: make it with pyterrier-csplade encode",
    "verify folder": "no encoded collection at",
    "verify plan": "manifest.json",
    "verify LONG": "name too long",
    "plot nothing": "there is no training_log.json in nothing",
    "plot docs.jsonl": "there is no training_log.json in docs.jsonl",
    "demo --output docs.jsonl": "docs.jsonl",
    "demo --output docs.jsonl/new": "docs.jsonl/new",
    "train folder": "folder",
    "train LONG": "name too long",
    "adapt docs.jsonl": "docs.jsonl",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with files and folders."""
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "docs.jsonl", documents(3))
    (tmp_path / "folder" / "empty").mkdir(parents=True)
    (tmp_path / "folder" / "link").symlink_to("nowhere")
    for name in ("plan.json", "manifest.json"):
        (tmp_path / "plan" / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:60])
def test_one_line_names_what_is_wrong(
    place: Path, command: str, csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--adapter" not in command and "--revision" not in command:  # saves the time of loading it
        monkeypatch.setattr(CSPLADE, "tiny", classmethod(lambda cls, **settings: csplade))
    arguments = ["x" * 300 if word == "LONG" else word.strip("'") for word in command.split(" ")]
    if arguments[1] in FILES:
        (place / arguments[1]).write_bytes(FILES[arguments[1]][0])
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("pyterrier-csplade: ") and "warning:" not in line]
    assert [lines[-1]] == errors and COMMANDS[command].lower() in lines[-1].lower()
    assert not any("Traceback" in line for line in lines)
    assert not (place / "new" / "manifest.json").exists()


@pytest.mark.parametrize("environment", [{"RANK": "abc"}, {"WORLD_SIZE": "x"}, {"WORLD_SIZE": "2", "RANK": ""}])
def test_an_environment_that_no_launcher_makes(
    place: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(ENCODE.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pyterrier-csplade: the environment variable {list(environment)[-1]}, ") and said.count("\n") == 1


# ---------------------------------------------------------------------- standard streams


@pytest.fixture(scope="module")
def stored(csplade: CSPLADE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "c"
    return encode(path, csplade).directory


def shell(script: str, stored: Path, **environment: str) -> tuple[int, str, str]:
    """Run a script in which $RUN is the command, and $C a collection."""
    run = f"{sys.executable} -m pyterrier_csplade"
    variables = {**os.environ, "RUN": run, "C": str(stored), **environment}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=variables, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ("$RUN verify $C >&-", 0, ""),  # was an AttributeError
        ("$RUN verify $C <&- >&- 2>&-", 0, ""),
        ("$RUN verify $C/none >&- 2>&-", 2, ""),
        ("$RUN verify $C >/dev/full", 2, "pyterrier-csplade: [Errno 28] No space left on device: 'standard output'\n"),
        ("$RUN --help >/dev/full", 0, ""),  # was 120, with a message of Python's
        ("{ $RUN --help; echo $? >&2; } | true", 0, "0\n"),
    ],
)
def test_streams_that_are_closed_or_full(stored: Path, script: str, status: int, error: str) -> None:
    assert shell(script, stored) == (status, "", error)


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["verify"], 2), (["nothing"], 2)])
def test_messages_that_nobody_reads_keep_the_status(monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int) -> None:
    def fail(*_: object) -> None:  # as argparse of Python 3.11.2 does with a full or closed stream
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("argparse.ArgumentParser._print_message", fail)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == status


def test_names_that_stdout_cannot_encode(stored: Path) -> None:
    link = stored.parent / "ü"
    link.symlink_to(stored)
    status, said, error = shell('$RUN verify "$C"', link, PYTHONIOENCODING="ascii")
    assert (status, error) == (0, "") and "\\xfc is intact" in said
