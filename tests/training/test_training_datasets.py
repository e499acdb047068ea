"""Training rows from datasets of PyTerrier and ir_datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import pytest

from inside.training import TrainingRow, read_rows
from pyterrier_csplade import DataError


class FakeDataset:
    """A PyTerrier dataset."""

    documents = "abc"

    def get_topics(self) -> pd.DataFrame:
        return pd.DataFrame([["1", "one"], ["2", "two"], ["3", "three"]], columns=["qid", "query"])

    def get_qrels(self) -> pd.DataFrame:
        rows = [["1", "a", 1], ["1", "b", 0], ["2", "c", 2], ["2", "a", 1]]
        return pd.DataFrame(rows, columns=["qid", "docno", "label"])

    def get_corpus_iter(self, verbose: bool = True) -> Iterator[dict[str, str]]:
        yield from ({"docno": d, "text": f"text {d}", "title": f"title {d}"} for d in self.documents)


class Record(NamedTuple):
    query_id: str = ""
    doc_id: str = ""
    doc_id_a: str = ""
    doc_id_b: str = ""
    relevance: int = 0
    text: str = ""

    def default_text(self) -> str:
        return self.text


class Store(dict[str, Record]):
    """Raises where nothing is found, as the stores of ir_datasets do."""

    def get(self, key: str) -> Any:  # type: ignore[override]
        return self[key]


class FakeIrds:
    """A dataset of ir_datasets with the given parts."""

    def __init__(self, documents: str = "abcd", **has: Any) -> None:
        self.documents = documents
        self.has = has
        for kind in ("qrels", "docpairs", "scoreddocs"):
            setattr(self, f"has_{kind}", lambda kind=kind: kind in has)
            setattr(self, f"{kind}_iter", lambda kind=kind: iter(has[kind]))

    def irds_ref(self) -> FakeIrds:
        return self

    def queries_iter(self) -> Iterator[Record]:
        return iter([Record(query_id="1", text="one"), Record(query_id="2", text="two")])

    def docs_store(self) -> Store:
        return Store({d: Record(doc_id=d, text=f"text {d}") for d in self.documents})


def rows_of(monkeypatch: pytest.MonkeyPatch, dataset: Any) -> list[TrainingRow]:
    import pyterrier as pt

    monkeypatch.setattr(pt, "get_dataset", {"fake": dataset}.__getitem__)
    return list(read_rows("fake"))


def test_rows_of_a_pyterrier_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_of(monkeypatch, FakeDataset()) == [
        TrainingRow("one", ["title a text a"], []),
        TrainingRow("two", ["title c text c", "title a text a"], []),
    ]


QRELS = [Record("1", "a", relevance=1), Record("1", "b"), Record("2", "c", relevance=1)]
SCORED = [Record("1", "a"), Record("1", "d"), Record("1", "b"), Record("3", "a")]
PAIRS = [Record(query, doc_id_a=positive, doc_id_b=negative) for query, positive, negative in ("1ab", "1ab", "2cd")]


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"qrels": QRELS}, [([], "a"), ([], "c")]),
        ({"qrels": QRELS, "scoreddocs": SCORED}, [(["d", "b"], "a"), ([], "c")]),
        ({"docpairs": PAIRS}, [(["b"], "a"), (["d"], "c")]),
        ({"qrels": QRELS, "docpairs": PAIRS, "scoreddocs": SCORED}, [(["b"], "a"), (["d"], "c")]),
    ],
)
def test_rows_of_ir_datasets(monkeypatch: pytest.MonkeyPatch, has: dict[str, Any], expected: Any) -> None:
    rows = rows_of(monkeypatch, FakeIrds(**has))
    assert rows == [
        TrainingRow(query, [f"text {positive}"], [f"text {n}" for n in negatives])
        for query, (negatives, positive) in zip(("one", "two"), expected)
    ]


def test_a_relevant_document_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FakeDataset()
    dataset.documents = "a"
    with pytest.raises(DataError, match="fake, query 2: the document 'c' is not in the collection"):
        rows_of(monkeypatch, dataset)
    with pytest.raises(DataError, match="fake, query 2: the document 'c' is not in the collection"):
        rows_of(monkeypatch, FakeIrds("ab", qrels=QRELS))
