"""Texts of queries: given ones, and those that documents suggest."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from inside.data import first_sentence
from pyterrier_csplade import DataError
from pyterrier_csplade.data import Source, read_queries, suggested_queries


def source(documents: list[dict[str, str]]) -> Source:
    return Source("some documents", lambda: iter(documents), lambda: len(documents))


def test_tsv_and_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("1\tdogs and cats\n2\ta\tb\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"query": text, "positive_passages": []}) + "\n" for text in ("x", "y")))
    assert read_queries(str(tmp_path / "a.tsv")) == ["dogs and cats", "a\tb"]
    assert read_queries(str(tmp_path / "b.jsonl.gz")) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "1 dogs\n", r"a\.tsv, line 1: expected qid TAB query, found '1 dogs'"),
        ("a.jsonl", '{"text": "x"}\n', r"a\.jsonl, line 1: the field 'query' is missing"),
        ("a.tsv", "", "a.tsv holds no queries"),
    ],
)
def test_files_without_queries(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_queries(str(tmp_path / name))


def test_other_names_without_queries(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a directory: give the file of its queries, such as .*topics\.train\.tsv"):
        read_queries(str(tmp_path))
    with pytest.raises(DataError, match="no-such-thing: neither a .* nor a PyTerrier dataset"):
        read_queries("no-such-thing")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Dogs and cats sleep a lot. They eat.", "Dogs and cats sleep a lot."),
        ("Dr. Smith went to the U.S. for a year. Then he came back.", "Dr. Smith went to the U.S."),
        ("  no mark\nof punctuation ", "no mark of punctuation"),
        (" ".join(map(str, range(40))), " ".join(map(str, range(24)))),
        ("Is the value of 3.14 known to everybody? Yes.", "Is the value of 3.14 known to everybody?"),
    ],
)
def test_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_titles_and_first_sentences_are_queries_once() -> None:
    documents = [
        {"docno": "1", "title": "Sleep", "text": "Dogs and cats sleep a lot. They eat."},
        {"docno": "2", "title": "Sleep", "text": " "},
        {"docno": "3", "text": "Something else"},
    ]
    expected = ["Sleep", "Dogs and cats sleep a lot.", "Something else"]
    assert suggested_queries(source(documents), ["title", "text"], 10) == expected
    assert suggested_queries(source(documents), ["title"], 10) == ["Sleep"]
    with pytest.raises(DataError, match="some documents: no document has text in body, abstract"):
        suggested_queries(source(documents), ["body", "abstract"], 10)


def test_documents_are_drawn_with_equal_probability() -> None:
    documents = [{"text": str(number)} for number in range(8)]
    drawn = Counter(text for seed in range(2000) for text in suggested_queries(source(documents), ["text"], 3, seed))
    assert sum(drawn.values()) == 6000 and all(650 < count < 850 for count in drawn.values())  # 750 on average
    assert suggested_queries(source(documents), ["text"], 3, 1) == suggested_queries(source(documents), ["text"], 3, 1)
