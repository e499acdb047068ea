"""Where training rows come from: directories of a collection, datasets of ir_datasets, and bad rows among good ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_datasets
import pytest

from inside.training import TrainingRow, read_rows
from pyterrier_csplade import DataError
from pyterrier_csplade.data import CollectionFiles, read_corpus
from support.paths import SHARED
from support.training_runs import DOCS, TRIPLES, make_collection


@pytest.mark.parametrize("compressed", [True, False])
def test_rows_of_a_directory(tmp_path: Path, compressed: bool) -> None:
    directory = str(make_collection(tmp_path / "c", compressed=compressed))
    assert list(read_rows(directory)) == [
        TrainingRow("one", ["text 0"], ["text 1", "T text 2"]),
        TrainingRow("two\u2028still two", ["T text 2", "text 3"], []),
    ]
    assert list(read_corpus(directory, ["text"])) == [d["text"] for d in DOCS]
    assert CollectionFiles(directory).qrels("dev").values.tolist() == [["9", "d1", 2], ["9", "d2", -1]]


@pytest.mark.parametrize(
    ("triple", "message"),
    [
        ({"qid": "1", "pos": [], "neg": ["d1"]}, "line 2: the query has no positive passage"),
        ({"qid": "7", "pos": ["d1"], "neg": []}, "line 2: no topics file contains the query '7'"),
        ({"qid": "1", "pos": ["d9"], "neg": []}, "line 2: the document 'd9' is not in the collection"),
        ({"qid": "1", "pos": ["d1"], "neg": ["d8"]}, "line 2: the document 'd8' is not in the collection"),
        ({"qid": 1, "pos": ["d1"]}, "line 2: expected qid, pos and neg, found qid, pos"),
        ({"qid": "1", "pos": [["d1"]], "neg": []}, r"line 2: expected docnos in pos and neg, found \['d1'\]"),
        ({"qid": "1", "pos": "d1", "neg": []}, "line 2: expected qid, pos and neg"),
        ({"qid": "1", "pos": [None], "neg": []}, "line 2: expected docnos in pos and neg, found None"),
    ],
)
def test_bad_triples_are_named(tmp_path: Path, triple: Any, message: str) -> None:
    directory = make_collection(tmp_path / "c", triples=[TRIPLES[0], triple])
    with pytest.raises(DataError, match=f"train.triples.jsonl.gz, {message}"):
        list(read_rows(str(directory)))


def test_directories_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains no docs.jsonl or docs.jsonl.gz"):
        list(read_rows(str(tmp_path)))
    directory = make_collection(tmp_path / "c")
    with pytest.raises(DataError, match=r"contains no topics.dev.tsv; it has topics.train.tsv, topics.tsv"):
        CollectionFiles(directory).topics("dev")
    (directory / "topics.tsv").write_text("no tab\n")
    with pytest.raises(DataError, match=r"topics.tsv, line 1: expected qid TAB query, found 'no tab'"):
        CollectionFiles(directory).topics("test")
    (directory / "train.triples.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"contains no train.triples.jsonl or train.triples.jsonl.gz"):
        list(read_rows(str(directory)))
    make_collection(tmp_path / "d", docs=[*DOCS, {"docno": 3, "text": "x"}])
    with pytest.raises(DataError, match=r"docs.jsonl.gz, line 5: the field 'docno' is missing or not a string"):
        list(read_rows(str(tmp_path / "d")))


def test_a_source_that_does_not_exist() -> None:
    for source in ("no/such/place", "no-such-dataset"):
        with pytest.raises(DataError, match=f"{source} is neither a .jsonl or .jsonl.gz file, nor a directory"):
            list(read_rows(source))
        with pytest.raises(DataError, match=f"{source} is neither"):
            list(read_corpus(source, ["text"]))


# ---------------------------------------------------------------------- bad rows among good ones

GOOD = {"query": "q", "positive_passages": [{"text": "p"}], "negative_passages": []}
BAD = {"query": "q", "positive_passages": []}


def write_rows(path: Path, rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_bad_rows_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [GOOD, BAD, "{", GOOD, BAD, BAD, GOOD])
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    message = str(caught.value)
    assert message.startswith("4 of the first 7 rows cannot be used, the first 3: ")
    assert [f"line {n}:" in message for n in (2, 3, 5, 6)] == [True, True, True, False]
    assert message.endswith("(correct the data, or allow 4 bad rows with max_bad_rows)")


def test_allowed_bad_rows_are_left_out_with_a_warning(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [GOOD, BAD, GOOD, BAD])
    with pytest.warns(UserWarning, match=r"left out, as max_bad_rows=2 allows: 2 of the first 4 rows cannot be used: .*line 2"):
        assert len(list(read_rows(path, max_bad_rows=2))) == 2
    with pytest.raises(DataError, match="2 of the first 4 rows"):
        list(read_rows(path, max_bad_rows=1))


def test_a_file_of_another_form_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "a"}] * 3000)
    with pytest.raises(DataError, match=r"1,000 of the first 1,000 rows cannot be used, the first 3: .*'query' is missing"):
        list(read_rows(path))


# ---------------------------------------------------------------------- ir_datasets itself


def register(tmp_path: Path) -> str:
    """A dataset of ir_datasets with docpairs, like msmarco-passage/train."""
    from ir_datasets.formats import TrecQrels, TsvDocPairs, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    files = {"docs": "a\ttext a\nb\ttext b\nc\ttext c\n", "queries": "1\tone\n2\ttwo\n", "qrels": "1 0 a 1\n2 0 c 1\n2 0 b 0\n"}
    files["pairs"] = "1\ta\tb\n1\ta\tc\n2\tc\ta\n2\tc\tc\n"
    downloads = {}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        downloads[name] = LocalDownload(tmp_path / name)
    parts = [
        TsvDocs(downloads["docs"]),
        TsvQueries(downloads["queries"]),
        TrecQrels(downloads["qrels"], {1: "relevant"}),
        TsvDocPairs(downloads["pairs"]),
    ]
    name = f"csplade-test/{tmp_path.name}"
    ir_datasets.registry.register(name, ir_datasets.Dataset(*parts))
    return f"irds:{name}"


def test_docpairs_of_ir_datasets(tmp_path: Path) -> None:
    name = register(tmp_path)
    assert list(read_rows(name)) == [
        TrainingRow("one", ["text a"], ["text b", "text c"]),
        TrainingRow("two", ["text c"], ["text a"]),
    ]
    assert list(read_corpus(name, ["text"])) == ["text a", "text b", "text c"]


# ---------------------------------------------------------------------- the collections as they are


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared collections")
@pytest.mark.parametrize(
    ("name", "rows", "positives"),
    [
        ("checkthat20", 800, None),
        ("covidqa", 841, None),
        ("msmarco-dl21-pool", 51, 1808),
        ("medquad", 13469, None),
        ("openstax", 6327, None),
    ],
)
def test_collections_as_they_are(name: str, rows: int, positives: int | None) -> None:
    """The counts come from the collections' descriptions."""
    found = list(read_rows(str(SHARED / name)))
    assert len(found) == rows
    if positives:
        assert sum(len(row.positives) for row in found) == positives
