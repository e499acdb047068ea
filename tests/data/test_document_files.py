"""Files of documents: which are read, and which are refused by name instead of being skipped."""

from __future__ import annotations

import bz2
import gzip
import pickle
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from pyterrier_csplade import DataError
from pyterrier_csplade.data import open_source, read_corpus, read_jsonl

TREC = b"<DOC>\n<DOCNO>A-1</DOCNO>\n<TEXT>\nhello\n</TEXT>\n</DOC>\n"
JSON = b'{"docno": "a", "text": "x"}\n'
HELLO = {"docno": "A-1", "title": "", "body": "hello"}


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


READ: dict[str, tuple[bytes, list[dict[str, Any]]]] = {
    "a.tsv": (b'1\t"not a quote\n2\ttwo\r\n', [{"docno": "1", "text": '"not a quote'}, {"docno": "2", "text": "two"}]),
    "b.tsv": (b'docid\ttext\n1\t"a ""b"""\n', [{"docno": "1", "text": 'a "b"'}]),
    "c.tsv.gz": (gzip.compress(b"1\tone\n"), [{"docno": "1", "text": "one"}]),
    "a.csv": (b'id,text\n1,"two\nlines"\n\n2,b\n', [{"docno": "1", "text": "two\nlines"}, {"docno": "2", "text": "b"}]),
    "b.csv": (b"\xef\xbb\xbfdocno,text\n1," + b"x" * 200_000, [{"docno": "1", "text": "x" * 200_000}]),
    "a.JSONL.GZ": (gzip.compress(JSON), [{"docno": "a", "text": "x"}]),
    "a.jsonl": (b'{"id": 7, "text": "x"}\n', [{"docno": "7", "text": "x"}]),
    "a.trec": (b"\xef\xbb\xbf" + TREC, [HELLO]),
    "b": (TREC + b"</root>\n", [HELLO]),
}


@pytest.mark.parametrize("name", READ)
def test_files_that_are_read(tmp_path: Path, name: str) -> None:
    content, expected = READ[name]
    source = open_source(str(write(tmp_path / name, content)))
    assert list(source.read()) == expected
    assert source.count() == len(expected)
    field = "body" if "body" in expected[0] else "text"
    assert list(read_corpus(str(tmp_path / name), [field])) == [row[field] for row in expected]


NOTHING = r"b.* contains no documents: it was read as TREC documents, but no line begins with <DOC>; "

REFUSED: dict[str, tuple[bytes, str]] = {
    # files that were skipped silently
    "b.zst": (b"\x28\xb5\x2f\xfd" + bytes(range(256)), NOTHING + "it is compressed with zstd: .* end its name in .gz"),
    "b.jsonl.zst": (b"\x28\xb5\x2f\xfd", NOTHING + "it is compressed with zstd"),
    "b.bz2": (bz2.compress(TREC), NOTHING + "it is compressed with bzip2"),
    "b.0z": (b"\x1f\x9d\x90", NOTHING + "it is compressed with compress"),
    "b": (gzip.compress(TREC), NOTHING + "it is compressed with gzip"),
    "b.json": (JSON, NOTHING + "it looks like JSON: write one object per line and end its name in .jsonl"),
    "b.txt": (b"plain text\n", NOTHING + "supported are .jsonl, .tsv and .csv"),
    "b.gz": (gzip.compress(JSON), NOTHING + "it looks like JSON"),
    "b.parq": (b"PAR1", NOTHING + "it looks like Parquet"),
    "b.trec": (b"", NOTHING + "it is empty"),
    "b.jsonl": (b"", "b.jsonl contains no documents: it was read as JSONL; supported are"),
    "b.csv": (b"docno,text\n", "b.csv contains no documents: it was read as CSV"),
    "utf16": ("<DOC>\n</DOC>\n".encode("utf-16"), "utf16 contains no documents: .*it is UTF-16: convert it to UTF-8"),
    "tags": (TREC.replace(b"TEXT", b"BODY"), "tags: no document has text in the tags <TEXT>, <HEADLINE>"),
    # files with unexpected content
    "begun": (TREC + b"<DOC>\n" + TREC, "begun, line 7: the document that begins here has no line </DOC>"),
    "ended": (TREC + TREC.replace(b"<DOC>", b"<DOK>"), "ended, line 12: </DOC> without a line that begins with <DOC>"),
    "unnamed": (TREC.replace(b"DOCNO", b"NO"), "unnamed, line 1: the document that begins here has no <DOCNO>"),
    "cells.tsv": (b"1\ta\n2\n", "cells.tsv, line 2: expected docno TAB text, found 1 cells: name the columns"),
    "docs.tsv": (b"D1\thttp://x\tA title\tA text\n", "docs.tsv, line 1: expected docno TAB text, found 4 cells"),
    "pid.tsv": (b"pid\tpassage\n1\tone\n", "pid.tsv, line 2: the document has none of docno, .*, only 'pid', 'passage'"),
    "semi.csv": (b"docno;text\n1;2\n", "semi.csv, line 2: the document has none of docno, .*, only 'docno;text'"),
    "twice.csv": (b"id,text,text\n1,2,3\n", "twice.csv, line 1: two columns have the same name"),
    "open.csv": (b'id,text\n1,"open\n', r"open.csv, line 2: not valid CSV \("),
    "wide.csv": (b"id,text\n1,2,3\n", r"wide.csv, line 2: 3 cells for 2 columns \(id, text\)"),
    "digits.jsonl": (b'{"docno": "a", "n": ' + b"1" * 5000 + b"}\n", "digits.jsonl, line 1: not valid JSON"),
    "deep.jsonl": (b"[" * 100_000, "deep.jsonl, line 1: not valid JSON"),
    "nul.jsonl": (b"\0\n", "nul.jsonl, line 1: not valid JSON"),
    "utf16.jsonl": (JSON.decode().encode("utf-16"), "utf16.jsonl, line 1: not valid UTF-8"),
    "line.jsonl": (b" " * (2**24 + 1), "line.jsonl, line 1: longer than 16,777,216 bytes, which is the limit"),
    "line.csv": (b"id,text\n1," + b"x" * 2**24, "line.csv, line 2: longer than 16,777,216 bytes"),
    "document": (b"<DOC>\n" + (b"x" * 1023 + b"\n") * 2**14, "document, line 1: the document has more than 16,777,216 bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused_by_name(tmp_path: Path, name: str) -> None:
    """Alone, and among files that can be read."""
    content, message = REFUSED[name]
    path = write(tmp_path / "in" / name, content)
    with pytest.raises(DataError, match=message):
        list(open_source(str(path)).read())
    write(tmp_path / "in" / "a.trec", TREC.replace(b"A-1", b"B-1"))
    with pytest.raises(DataError, match=message):
        list(open_source(str(tmp_path / "in")).read())
    if "contains no documents" in message:
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path / "in")).count()


def test_a_directory_of_several_formats(tmp_path: Path) -> None:
    write(tmp_path / "in" / "b.jsonl", JSON)
    write(tmp_path / "elsewhere" / "c.tsv", b"c\tx\n")
    write(tmp_path / "in" / "a" / "a.trec", TREC)
    write(tmp_path / "in" / ".hidden", b"\0")
    (tmp_path / "in" / "c").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(tmp_path / "in"))
    assert [document["docno"] for document in source.read()] == ["A-1", "a", "c"]
    assert source.count() == 3


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.trec", TREC)
    for target, message in (
        (tmp_path / "nowhere", "in/b is not a regular file"),
        (tmp_path / "in", "in/b links to a directory"),
    ):
        (tmp_path / "in" / "b").symlink_to(target)
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path / "in"))
        (tmp_path / "in" / "b").unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the directory .*empty contains no files"):
        open_source(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="there is no file .*none.csv"):
        open_source(str(tmp_path / "none.csv"))


def test_the_documents_of_a_collection(tmp_path: Path) -> None:
    for name in ("topics.tsv", "qrels.txt", "train.triples.jsonl"):
        write(tmp_path / name, b"1\n")
    write(tmp_path / "docs.jsonl", JSON)
    assert [document["docno"] for document in open_source(str(tmp_path)).read()] == ["a"]
    write(tmp_path / "more.jsonl", JSON)
    with pytest.warns(UserWarning, match=r"docs.jsonl is read, but not the other files of the directory, such as more.jsonl"):
        assert open_source(str(tmp_path)).count() == 1


def test_trec_files_that_are_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "a", TREC.replace(b"hello", b"h\xe4llo \xc3\xa4"))
    with pytest.warns(UserWarning, match="bytes that are not UTF-8 were left out of 1 documents"):
        assert [document["body"] for document in open_source(str(path)).read()] == ["hllo ä"]


def test_a_long_line_takes_little_memory(tmp_path: Path) -> None:
    """100 MB behind 100 kB of gzip."""
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"docno": "a", "text": "' + bytes(10**8), 1))
    tracemalloc.start()
    try:
        for read in (lambda: list(read_jsonl(path)), open_source(str(path)).count):
            with pytest.raises(DataError, match="line 1: longer than 16,777,216 bytes"):
                read()
        assert tracemalloc.get_traced_memory()[1] < 6e7
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------- Parquet


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = str(tmp_path / "a.parquet")
    pd.DataFrame({"docid": range(3000), "text": "x", "n": 1.5}).to_parquet(path)
    source = open_source(path)
    assert source.count() == 3000
    assert list(source.documents(["text"], "text")) == [{"docno": str(i), "text": "x"} for i in range(3000)]
    pd.DataFrame({"text": ["x", None]}).to_parquet(path)
    with pytest.raises(DataError, match="a.parquet, line 1: the document has none of docno"):
        list(open_source(path).read())
    with pytest.raises(DataError, match="a.parquet, document 2: the field 'text' is missing or not a string"):
        list(read_corpus(path, ["text"]))
    pd.DataFrame({"docno": []}).to_parquet(path)
    with pytest.raises(DataError, match="a.parquet contains no documents: it was read as Parquet; supported"):
        open_source(path).count()
    Path(path).write_bytes(Path(path).read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a.parquet: cannot be read as Parquet \("):
        open_source(path).count()


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    source = open_source(str(write(tmp_path / "a.parquet", b"PAR1")))
    for read in (source.count, lambda: list(source.read())):
        with pytest.raises(DataError, match="a.parquet: reading Parquet needs pyarrow: pip install pyarrow"):
            read()


def test_rows_of_parquet_by_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of pyarrow, where it is not installed."""

    class Batch(list[dict[str, Any]]):
        def to_pylist(self) -> list[dict[str, Any]]:
            return self

    class ParquetFile:
        metadata = type("Metadata", (), {"num_rows": 3})

        def __init__(self, path: Path) -> None:
            assert path.name == "a.parquet"

        def __enter__(self) -> ParquetFile:
            return self

        def __exit__(self, *error: object) -> None: ...

        def iter_batches(self, size: int) -> Any:
            yield Batch([{"id": 1, "text": "x"}, {"id": 2, "text": "y"}])
            raise ValueError("torn")

    module = ModuleType("pyarrow.parquet")
    module.ParquetFile = ParquetFile  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", module)
    source = open_source(str(write(tmp_path / "a.parquet", b"PAR1")))
    assert source.count() == 3
    documents = iter(source.read())
    assert [next(documents), next(documents)] == [{"docno": "1", "text": "x"}, {"docno": "2", "text": "y"}]
    with pytest.raises(DataError, match=r"a.parquet, after row 2: cannot be read as Parquet \(torn\)"):
        next(documents)


def test_documents_by_name_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    name = str(write(tmp_path / "a.jsonl", JSON))
    sent = pickle.loads(pickle.dumps(open_source(name)))
    assert list(sent.read()) == [{"docno": "a", "text": "x"}] and sent.count() == 1
