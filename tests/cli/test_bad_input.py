"""Bad input to the training commands: one line on stderr and exit status 2, also in the dry run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inside.cli import main
from support.training_runs import make_base, make_collection

ROW = json.dumps({"query": "q", "positive_passages": [{"text": "a"}], "negative_passages": [{"text": "b"}]})
ROWS = f"{ROW}\n" * 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


class Commands:
    """Runs commands in a folder, with a valid configuration and some changes."""

    def __init__(self, base: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.base, self.folder, self._capsys = base, folder, capsys

    def file(self, name: str, content: str | bytes) -> str:
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return str(self.folder / name)

    def run(self, *options: str, command: str = "train", raw: str | bytes | None = None, **changes: Any) -> tuple[int, str]:
        """Return the exit status and the output."""
        common = {"model": "llama", "output": "run", "learning_rate": 1e-3, "steps": 1, "batch_size": 4, "bf16": False}
        phase = {"data": "rows.jsonl", "document_length": 64} if command == "train" else {"corpus": "corpus.jsonl"}
        settings = {**common, **phase, **({} if command == "train" else {"sequence_length": 16}), **changes}
        for key, folder in (("model", self.base), ("data", self.base), ("corpus", self.base), ("output", self.folder)):
            if key in settings:
                settings[key] = str(folder / settings[key])
        path = self.file("config.yaml", json.dumps(settings) if raw is None else raw)
        status = main([command, path, *options])
        shown = self._capsys.readouterr()
        return status, shown.err + shown.out


@pytest.fixture
def commands(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(base, tmp_path, capsys)


CONFIGURATIONS: list[tuple[str | bytes | None, dict[str, Any], str]] = [
    (None, {"lerning_rate": 3}, "config.yaml, line 1: unknown setting 'lerning_rate'; did you mean 'learning_rate'?"),
    (None, {"corpus": "c"}, "unknown setting 'corpus', which is one of the adaptation phase: pyterrier-csplade adapt"),
    (None, {"lora": {"rnk": 2}}, "lora: unknown setting 'rnk'; did you mean 'rank'?"),
    (None, {"target_nnz": {"doc": 9}}, "target_nnz: unknown setting 'doc'; did you mean 'document'?"),
    (None, {"lora": {"target_modules": []}}, "lora: target_modules must not be empty"),
    (None, {"warmup_steps": -1}, "warmup_steps must not be negative, found -1"),
    (None, {"weight_decay": -0.1}, "weight_decay must not be negative, found -0.1"),
    (None, {"seed": -1}, "seed must be from 0 to 2^32 - 1, found -1"),
    (None, {"steps": "many"}, "steps: expected int, found 'many'"),
    (None, {"steps": True}, "steps: expected int, found True"),
    (None, {"steps": -1}, "steps must be positive, found -1"),
    (None, {"batch_size": 0}, "batch_size must be positive, found 0"),
    (None, {"learning_rate": "fast"}, "learning_rate: expected float, found 'fast'"),
    (None, {"variant": "ecko"}, "variant: expected one of 'causal', 'echo', 'bidirectional', found 'ecko'"),
    (None, {"validation": {"collection": "c", "measures": ["nDGC@10"]}}, "validation: ir_measures has no measure 'nDGC@10'"),
    ("", {}, "config.yaml: expected a mapping of settings, found NoneType"),
    ("- a\n- b\n", {}, "config.yaml: expected a mapping of settings, found list"),
    ("model: [a\nb: }", {}, "config.yaml is not valid: while parsing"),
    (b"\xff\xfe\x00", {}, "config.yaml is not valid: 'utf-8' codec"),
]


@pytest.mark.parametrize("case", range(len(CONFIGURATIONS)))
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_configurations(commands: Commands, case: int, options: list[str]) -> None:
    raw, changes, message = CONFIGURATIONS[case]
    status, said = commands.run(*options, raw=raw, **changes)
    assert status == 2 and message in said.strip().splitlines()[-1]
    assert not (commands.folder / "run").exists()


def rows_with(line: str | bytes) -> bytes:
    return ROWS.encode() + (line.encode() if isinstance(line, str) else line) + b"\n"


DATA: dict[str, tuple[bytes | None, str]] = {
    "missing.jsonl": (None, "there is no file "),
    "empty.jsonl": (b"", "empty.jsonl has no rows"),
    "blank.jsonl": (b"\n\n", "blank.jsonl, line 1: not valid JSON"),
    "positives.jsonl": (rows_with('{"query": "q", "positive_passages": []}'), "line 9: the query has no positive passage"),
    "torn.jsonl": (rows_with('{"query": '), "torn.jsonl, line 9: not valid JSON"),
    "latin.jsonl": (rows_with('{"query": "é"}'.encode("latin-1")), "latin.jsonl, line 9: not valid UTF-8"),
    "plain.jsonl.gz": (ROWS.encode(), "plain.jsonl.gz, after line 0: cannot be read (Not a gzipped file"),
    "table.csv": (b"a,b\n", "table.csv is neither a .jsonl or .jsonl.gz file, nor a directory with docs.jsonl.gz"),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_data(commands: Commands, name: str, options: list[str]) -> None:
    content, message = DATA[name]
    data = str(commands.folder / name) if content is None else commands.file(name, content)
    status, said = commands.run(*options, data=data)
    assert status == 2 and message in said and "Traceback" not in said
    assert not (commands.folder / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("content", [ROWS.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + ROWS.encode()], ids=["CRLF", "BOM"])
def test_files_from_windows_are_read(commands: Commands, content: bytes) -> None:
    status, said = commands.run(data=commands.file("rows.jsonl", content))
    assert status == 0 and "CSPLADE model" in said
    texts = [json.loads(line) for line in (commands.folder / "run" / "rows.jsonl").read_text().splitlines()]
    assert [(row["query"], row["positives"], row["negatives"]) for row in texts] == [("q", ["a"], ["b"])] * 8


CORPORA: dict[str, tuple[str | None, str]] = {
    "missing.jsonl": (None, "there is no file "),
    "empty.jsonl": ("", "empty.jsonl contains no documents: it was read as JSONL"),
    "field.jsonl": ('{"txt": "a"}\n', "field.jsonl, document 1: the field 'text' is missing or not a string"),
    "short.jsonl": ('{"text": "a"}\n', "fewer than"),
}


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_corpora(commands: Commands, name: str, options: list[str]) -> None:
    content, message = CORPORA[name]
    corpus = str(commands.folder / name) if content is None else commands.file(name, content)
    status, said = commands.run(*options, command="adapt", corpus=corpus)
    assert status == 2 and message in said and "Traceback" not in said
    assert "Loading weights" not in said or name == "short.jsonl"  # before a large model is loaded


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_places_and_models(commands: Commands, options: list[str]) -> None:
    taken = commands.file("taken", "a file")
    for output in (taken, f"{taken}/below"):
        status, said = commands.run(*options, output=output)
        assert status == 2 and "output" in said and taken in said and "name another one" in said
    status, said = commands.run(*options, model="rows.jsonl")
    assert status == 2 and "rows.jsonl" in said and "config.json" in said
    status, said = commands.run(*options, lora={"target_modules": ["wq"]})
    assert status == 2 and "target_modules: the model has no 'wq'; its linear layers: down_proj, gate_proj, k_proj" in said
    status, said = commands.run(*options, command="adapt", objective="mntp", mask_token="<none>")
    assert status == 2 and "mask_token '<none>' is not a token of" in said
    status, said = commands.run(*options, report_to=["tensorbord"])
    assert status == 2 and "report_to: tensorbord is not supported" in said
    status, said = commands.run("--resume", *options, model="no-such-model")
    assert status == 2 and "no-such-model" in said


@pytest.mark.parametrize("options", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_collections_to_validate_on(commands: Commands, options: list[str]) -> None:
    status, said = commands.run(*options, validation={"collection": "/nothing/there"})
    assert status == 2 and "/nothing/there is neither" in said
    collection = make_collection(commands.folder / "c")  # has qrels of a dev split, but no topics
    status, said = commands.run(*options, output="two", validation={"collection": str(collection)})
    assert status == 2 and "contains no topics.dev.tsv; it has topics.train.tsv, topics.tsv" in said
    (collection / "topics.dev.tsv").write_text("8\tanother query\n")
    status, said = commands.run(*options, output="three", validation={"collection": str(collection)})
    assert status == 2 and "no query of the split 'dev' has a relevant document" in said
    (collection / "topics.dev.tsv").write_text("9\tthe judged query\n")
    status, said = commands.run("--dry-run", output="four", validation={"collection": str(collection), "steps": 7})
    assert status == 0 and "1 queries every 7 steps" in said


def test_reports_without_input(commands: Commands) -> None:
    assert main(["plot", str(commands.folder / "never")]) == 2
    assert main(["plot", commands.file("file", "")]) == 2
    status, said = commands.run("--dry-run", "--gpu", "h1000")
    assert status == 2 and "unknown GPU 'h1000': choose one of a100-40gb" in said
