"""Queries and judgements from files, directories and datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import DataError
from pyterrier_csplade.data import open_source, read_qrels, read_topics

SGML = """<top>
<num> Number: 401
<title> foreign minorities,
 Germany
<desc> Description:
What language differences?
</top>

<TOP><NUM>402</NUM><TITLE>behavioral genetics</TITLE></TOP>
"""
XML = """<?xml version="1.0"?>
<topics><topic number="1"><query>coronavirus &amp; origin</query><question>what is it</question></topic>
<topic number="2"><query>  weather
</query></topic></topics>
"""
FILES = {
    "plain.tsv": "1\tdogs and cats\n2\tindex, inverted\n",
    "named.tsv": 'query_id\tquery\n1\t"dogs and cats"\n2\tindex, inverted\n',
    "named.csv": 'qid,query\n1,dogs and cats\n2,"index, inverted"\n',
    "beir.jsonl": '{"_id": "1", "text": "dogs and cats"}\n{"_id": "2", "text": "index, inverted"}\n',
    "numbers.jsonl": '{"qid": 1, "query": "dogs and cats"}\n{"qid": 2, "query": "index, inverted"}\n',
}


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", FILES)
def test_files_of_queries(name: str, tmp_path: Path) -> None:
    found = read_topics(write(tmp_path / name, FILES[name]))
    assert found.to_dict("list") == {"qid": ["1", "2"], "query": ["dogs and cats", "index, inverted"]}


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"qid": ["1"], "title": ["dogs"]}).to_parquet(tmp_path / "t.parquet")
    assert read_topics(str(tmp_path / "t.parquet")).to_dict("list") == {"qid": ["1"], "query": ["dogs"]}


def test_trec_topics(tmp_path: Path) -> None:
    sgml, xml = write(tmp_path / "topics.401-402", SGML), write(tmp_path / "topics.xml", XML)
    assert read_topics(sgml).to_dict("list") == {
        "qid": ["401", "402"],
        "query": ["foreign minorities, Germany", "behavioral genetics"],
    }
    assert read_topics(xml).to_dict("list") == {"qid": ["1", "2"], "query": ["coronavirus & origin", "weather"]}
    assert read_topics(xml, field="query")["query"].tolist() == ["coronavirus & origin", "weather"]
    with pytest.raises(
        DataError, match="topics.401-402, line 9: the query 402 has no text 'description'; its texts are: title"
    ):
        read_topics(sgml, field="description")


def test_queries_with_vectors(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"qid": "1", "vector": {"a": 1.5}}, {"qid": "2", "query_toks": {"b": 1}, "query": "b"}]
    found = read_topics(write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert found["query_toks"].tolist() == [{"a": 1.5}, {"b": 1}] and found["query"].isna().tolist() == [True, False]


def test_directories(tmp_path: Path) -> None:
    write(tmp_path / "docs.jsonl", '{"docno": "d", "text": "x"}\n')
    write(tmp_path / "topics.tsv", "1\tdogs\n")
    write(tmp_path / "topics.dev.tsv", "7\tcats\n")
    write(tmp_path / "qrels.dev.txt", "7 0 d 1\n")
    assert read_topics(str(tmp_path))["query"].tolist() == ["dogs"]
    assert read_topics(str(tmp_path), split="dev")["query"].tolist() == ["cats"]
    assert read_qrels(str(tmp_path), split="dev").to_dict("list") == {"qid": ["7"], "docno": ["d"], "label": [1]}


TREC_TOPIC = "<top>\n<num> Number: 7\n<title> dogs\n</top>\n"


def test_directories_of_trec_files(tmp_path: Path) -> None:
    write(tmp_path / "news-1", "<DOC>\n<DOCNO> d </DOCNO>\n<TEXT> Dogs sleep. </TEXT>\n</DOC>\n")
    write(tmp_path / "topics.1-50", TREC_TOPIC)
    write(tmp_path / "qrels.1-50", "7 0 d 1\n")
    write(tmp_path / "README", "About this collection.")
    assert read_topics(str(tmp_path)).to_dict("list") == {"qid": ["7"], "query": ["dogs"]}
    assert read_qrels(str(tmp_path)).to_dict("list") == {"qid": ["7"], "docno": ["d"], "label": [1]}
    source = open_source(str(tmp_path))
    assert [document["docno"] for document in source.read()] == ["d"] and source.count() == 1
    write(tmp_path / "topics.51-100", TREC_TOPIC.replace("7", "51"))
    assert read_topics(str(tmp_path), split="51-100")["qid"].tolist() == ["51"]
    with pytest.raises(DataError, match=r"one file whose name begins with topics, found 2: topics.1-50, topics.51-100; name"):
        read_topics(str(tmp_path))
    with pytest.raises(DataError, match=r"one file whose name begins with qrels.dev, found none; name the file"):
        read_qrels(str(tmp_path), split="dev")


def test_judgements(tmp_path: Path) -> None:
    path = write(tmp_path / "qrels", "1 0 d1 1\n1 Q0 d2 -1\n")
    assert read_qrels(path).to_dict("list") == {"qid": ["1", "1"], "docno": ["d1", "d2"], "label": [1, -1]}


def test_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dataset:
        def get_topics(self, variant: str | None = None) -> pd.DataFrame:
            assert variant in (None, "title")
            print("There are multiple query fields available")  # as PyTerrier does
            topics = pd.DataFrame({"qid": [1], "title": ["dogs"], "description": ["about dogs"]})
            return topics.rename(columns={"title": "query"})[["qid", "query"]] if variant else topics

        def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
            if variant:
                raise KeyError(variant)
            return pd.DataFrame({"qid": [1], "docno": [2], "label": [1], "iteration": ["0"]})

    def get_dataset(name: str) -> Any:
        if name != "irds:some/set":
            raise KeyError(name)
        return Dataset()

    monkeypatch.setattr(pt, "get_dataset", get_dataset)
    assert read_topics("some/set").to_dict("list") == {"qid": ["1"], "query": ["dogs"]}
    assert read_topics("some/set", split="title").to_dict("list") == {"qid": ["1"], "query": ["dogs"]}
    assert read_topics("some/set", field="description")["query"].tolist() == ["about dogs"]
    assert read_qrels("some/set").to_dict("list") == {"qid": ["1"], "docno": ["2"], "label": [1]}
    with pytest.raises(DataError, match="the topics of some/set have no field 'narrative'; they have title, description"):
        read_topics("some/set", field="narrative")
    with pytest.raises(DataError, match="the dataset some/set has no qrels of the split dev"):
        read_qrels("some/set", split="dev")
    with pytest.raises(DataError, match="there is no file, ir_datasets id or PyTerrier dataset 'none'"):
        read_topics("none")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "1 dogs\n", "t.tsv, line 1: expected qid TAB query, found 1 cells"),
        ("t.tsv", "1\tdogs\n1\tcats\n", "t.tsv: the query '1' appears twice"),
        ("t.jsonl", '{"text": "dogs"}\n', "t.jsonl, line 1: the query has none of qid, query_id, _id, id, only text"),
        ("t.jsonl", '{"qid": "1", "words": "dogs"}\n', "line 1: the query 1 has no text 'query'; its texts are: words"),
        ("t.jsonl", "", "t.jsonl contains no queries"),
        ("topics", "no topics", "topics contains no queries"),
        ("t.xml", "<?xml version='1.0'?><topics>", "t.xml: not valid XML"),
    ],
)
def test_queries_that_cannot_be_read(name: str, content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_topics(write(tmp_path / name, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 0 d\n", "line 1: expected qid 0 docno label, found '1 0 d'"),
        ("1 0 d 1\n1 0 d --1\n", "line 2: expected qid 0 docno label"),
        ("1 0 d ²\n", "line 1: expected qid 0 docno label"),
        ("", "qrels contains no judgements"),
    ],
)
def test_judgements_that_cannot_be_read(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_qrels(write(tmp_path / "qrels", content))


@pytest.mark.parametrize(
    ("line", "what"),
    [('{"qid": "q\\ud800", "query": "dogs"}', "the qid"), ('{"qid": "q", "query": "\\ud800"}', "the query q")],
)
def test_lone_surrogates_are_named(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(
        DataError, match=f"t.jsonl, line 1: {what} contains a lone surrogate, which UTF-8 cannot encode: remove it"
    ):
        read_topics(write(tmp_path / "t.jsonl", f"{line}\n"))
