"""The commands ``encode`` and ``verify``: inputs, messages, launches, signals."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from inside.cli import launched_device, launched_part
from inside.collection import Part
from inside.storage import signals
from pyterrier_csplade import CSPLADE, CollectionError, DataError, EncodedCollection
from pyterrier_csplade.cli import main
from pyterrier_csplade.data import dataset_source, open_source
from support.vector_collections import content, documents, jsonl


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a tiny checkpoint."""
    from support.models import language_model, tokenizer

    path = tmp_path_factory.mktemp("model")
    CSPLADE((language_model(), tokenizer())).save(path)
    return str(path)


# ------------------------------------------------------------------------------------------------------ inputs


@pytest.mark.parametrize("identifier", ["docno", "doc_id", "docid", "_id", "id"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_jsonl(tmp_path: Path, identifier: str, suffix: str) -> None:
    rows = [{identifier: "a", "title": "T", "text": "x"}, {identifier: "b", "title": "Y", "text": "Y and z"}]
    source = open_source(jsonl(tmp_path / f"docs{suffix}", [*rows, {identifier: "c", "title": "", "text": "w"}]))
    assert source.count() == 3
    assert list(source.documents(["text"], "body")) == [
        {"docno": "a", "body": "x"},
        {"docno": "b", "body": "Y and z"},
        {"docno": "c", "body": "w"},
    ]
    assert [d["text"] for d in source.documents(["title", "text"], "text")] == ["T x", "Y and z", "w"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"title": "a"}, "docs.jsonl, line 1: the document has none of docno, doc_id, docid, _id, id"),
        ({"docno": "a", "title": "t"}, "document a: the field 'text' is missing or not a string; its texts are: title"),
        (
            {"docno": "a", "text": 3, "body": "b"},
            "document a: the field 'text' is missing or not a string; its texts are: body",
        ),
    ],
)
def test_jsonl_without_what_is_needed(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_source(jsonl(tmp_path / "docs.jsonl", [row])).documents(["text"], "text"))


TREC = (
    b"<DOC>\n<DOCNO> A-1 </DOCNO>\n<TITLE>A title</TITLE>\n<TEXT>\nThe first text &amp; more.\n</TEXT>\n</DOC>\n"
    b"<DOC>\r\n<DOCNO>A-2</DOCNO>\r\n<TEXT>\r\nsecond\r\n</TEXT>\r\n</DOC>"
)


def test_trec_files(tmp_path: Path) -> None:
    """Also with carriage returns, and without a final line feed, which makes some parsers lose documents."""
    (tmp_path / "b.trec").write_bytes(TREC.replace(b"A-", b"B-"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.gz").write_bytes(gzip.compress(TREC))
    source = open_source(str(tmp_path))
    assert source.count() == 4
    assert list(source.documents(["title", "body"], "text")) == [
        {"docno": "A-1", "text": "A title The first text & more."},
        {"docno": "A-2", "text": "second"},
        {"docno": "B-1", "text": "A title The first text & more."},
        {"docno": "B-2", "text": "second"},
    ]


def test_a_torn_trec_file(tmp_path: Path) -> None:
    (tmp_path / "a.trec").write_bytes(TREC[:-20])
    with pytest.raises(DataError, match="a.trec, line 8: the document that begins here has no line </DOC>: repair the file"):
        list(open_source(str(tmp_path / "a.trec")).documents(["body"], "text"))


def test_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dataset:
        def get_corpus_iter(self, verbose: bool = True) -> list[dict[str, Any]]:
            assert not verbose
            return documents(3)

    def get_dataset(name: str) -> Any:
        if name != "irds:some/corpus":
            raise KeyError(name)
        return Dataset()

    monkeypatch.setattr(pt, "get_dataset", get_dataset)
    source = open_source("some/corpus")
    assert source.count() == 3
    assert list(source.documents(["text"], "text")) == documents(3)
    for name in ("no-such-corpus", "none.jsonl"):
        with pytest.raises(DataError, match=name):
            open_source(name)
    with pytest.raises(DataError, match="the dataset x has no documents"):
        list(dataset_source(pt.datasets.Dataset(), "x").documents(["text"], "text"))


# ------------------------------------------------------------------------------------------------------ the commands


def test_encode_and_verify(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs, output = jsonl(tmp_path / "docs.jsonl.gz", documents()), tmp_path / "c"
    command = ["encode", docs, "--model", model, "--output", str(output), "--shard-size", "10", "--top-k", "12"]
    assert main([*command, "--shard", "1/2"]) == 0
    said = capsys.readouterr().out
    assert f"23 documents in 3 shards of 10: 0 already in {output}, 1 to encode as part 1/2 (10 documents)\n" in said
    assert said.endswith(f"part 1/2 is complete; {output} will be complete when all parts are\n")
    assert main(["verify", str(output)]) == 2
    assert "not complete (shards finished: 1)" in capsys.readouterr().err
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"1 already in {output}, 2 to encode (13 documents)\n" in said
    assert said.endswith(f"encoded 23 documents: {output}\n")
    assert main(["verify", str(output)]) == 0
    assert capsys.readouterr().out == f"{output} is intact: 23 documents, {23 * 12} postings\n"
    expected = CSPLADE(model).doc_encoder(top_k=12)(pd.DataFrame(documents()))
    assert [d["toks"] for d in EncodedCollection(output).get_corpus_iter()] == expected["toks"].tolist()
    assert main([*command[:-1], "11"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(
        f"{output} was encoded with other settings: top_k 11 instead of 12; use the same settings, or another directory"
    )


def test_estimate(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs, output = jsonl(tmp_path / "docs.jsonl", documents(700)), tmp_path / "c"
    assert main(["encode", docs, "--model", model, "--output", str(output), "--top-k", "12", "--estimate"]) == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["estimate"] == "from 512 of 700 documents"
    assert lines["postings"] == "8,400 (12 for each document)"
    assert not output.exists()
    sequences, _ = CSPLADE(model).backbone.tokenize([d["text"] for d in documents(700)], "document")
    tokens = int(lines["tokens"].split()[0].replace(",", ""))
    assert abs(tokens / sum(map(len, sequences)) - 1) < 0.05
    EncodedCollection(output).encode(CSPLADE(model).doc_encoder(top_k=12), documents(700))
    size = sum(len(raw) for name, raw in content(output).items() if name.endswith("safetensors"))
    assert abs(float(lines["disk"].split()[0]) * 1e6 - size) < 0.1e6


@pytest.mark.parametrize(
    ("option", "values", "expected"),
    [
        ("--top-k", ["0", "-1", "1.5", "many", "9" * 30], "a whole number from 1 to 2,147,483,647"),
        ("--shard-size", ["0"], "a whole number from 1 to 2,147,483,647"),
        ("--batch-size", ["0"], "a whole number from 1 to 2,147,483,647"),
        ("--workers", ["0"], "a whole number from 1 to 2,147,483,647"),
        ("--min-weight", ["-0.1", "nan", "inf", "light"], "a finite number of at least 0"),
        ("--max-empty", ["1.01", "-1", "nan", "all"], "a number from 0 to 1"),
    ],
)
def test_numbers_out_of_range(
    option: str, values: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        with pytest.raises(SystemExit) as stopped:
            main(["encode", "docs.jsonl", "--model", "csplade-tiny", "--output", str(tmp_path / "c"), f"{option}={value}"])
        assert stopped.value.code == 2
        assert f"argument {option}: must be {expected}, found {value!r}" in capsys.readouterr().err


def test_numbers_at_the_ends_of_their_ranges(tmp_path: Path) -> None:
    docs, output = jsonl(tmp_path / "docs.jsonl", [{"docno": "a", "text": "dogs"}]), str(tmp_path / "c")
    ends = ["--top-k=1", "--shard-size=1", "--batch-size=1", "--min-weight=0", "--max-empty=1"]
    assert main(["encode", docs, "--model", "csplade-tiny", "--output", output, *ends]) == 0
    assert [len(d["toks"]) for d in EncodedCollection(output).get_corpus_iter()] == [1]


def test_empty_input_and_impossible_parts(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, docs, output = jsonl(tmp_path / "empty.jsonl", []), jsonl(tmp_path / "docs.jsonl", documents(3)), tmp_path / "c"
    for command, message in (
        (
            ["encode", empty, "--estimate"],
            ".parquet, and TREC files with any other name",
        ),
        (["encode", docs, "--shard", "2/2"], "there is no part 2 of 2: parts count from 0 to 1"),
    ):
        assert main([*command, "--model", model, "--output", str(output)]) == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(message)
        assert not output.exists()


# ------------------------------------------------------------------------------------------------------ launches


def test_launches() -> None:
    assert launched_part(None, None, {}) == Part(0, 1)
    assert launched_part("2/5", None, {}) == Part(2, 5)
    assert launched_part(None, 4, {"RANK": "3", "WORLD_SIZE": "4"}) == Part(3, 4)
    with pytest.raises(CollectionError, match=r"the launcher started 1 process\(es\), not 4: start them with torchrun"):
        launched_part(None, 4, {})
    with pytest.raises(CollectionError, match=r"the launcher started 2 process\(es\), not 4"):
        launched_part(None, 4, {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(CollectionError, match="--shard 0/2 contradicts the 4 processes"):
        launched_part("0/2", None, {"RANK": "3", "WORLD_SIZE": "4"})


@pytest.mark.parametrize("gpus", [True, False])
def test_each_process_of_a_machine_has_its_gpu(gpus: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    # Two machines of four processes: GPUs are numbered per machine.
    torchrun = {"RANK": "6", "LOCAL_RANK": "2", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    assert launched_device(torchrun) == ("cuda:2" if gpus else None)
    assert launched_device({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}) == ("cuda:1" if gpus else None)
    # A single process on a machine may use any GPU.
    assert launched_device({"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}) is None
    assert launched_device({}) is None


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("busy", ["hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", "time.sleep(0.01)"])
def test_signals_stop_a_run(number: int, status: int, busy: str, tmp_path: Path) -> None:
    """Also while one long call, such as a matrix product, keeps Python from handling signals."""
    code = (
        "import hashlib, sys, time\n"
        "from pyterrier_csplade.cli import main, encode as _encode\n"
        "from pyterrier_csplade.storage import signals as _signals\n"
        "_signals._PATIENCE = 0.5\n"
        "def run(arguments, say):\n"
        "    with _signals.stopping():\n"
        "        sys.stdout.write('ready\\n'); sys.stdout.flush()\n"
        f"        while True: {busy}\n"
        "_encode._verify = run\n"
        "sys.exit(main(['verify', 'x']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.2)
    process.send_signal(number)
    try:
        assert process.wait(10) == status
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.parametrize("swallowed", [False, True])
def test_the_process_lives_on_after_a_run(swallowed: bool) -> None:
    """As in a notebook; also if the host program handles SIGINT itself. In its own process, which it may kill."""
    code = (
        "import importlib.util, signal, sys, time\n"
        f"spec = importlib.util.spec_from_file_location('signals', {signals.__file__!r})\n"
        "signals = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(signals)\n"
        "signals._PATIENCE = 1\n"
        "found = []\n"
        f"if {swallowed}: signal.signal(signal.SIGINT, lambda number, frame: found.append('SIGINT'))\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    try:\n"
        "        with signals.stopping():\n"
        "            signal.raise_signal(number)\n"
        f"            if {swallowed}: time.sleep(1.5)\n"
        "    except BaseException as error:\n"
        "        found.append(type(error).__name__)\n"
        "time.sleep(1.5)\n"
        "print(found, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{['SIGINT' if swallowed else 'KeyboardInterrupt', 'SystemExit']} True\n")
