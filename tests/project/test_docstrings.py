"""The examples in docstrings run."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opensearchpy
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

import pyterrier_csplade
from pyterrier_csplade import (
    CSPLADE,
    EncodedCollection,
    FoldTerms,
    ImpactIndex,
    OpenSearchIndex,
    PruneToks,
    QueryTable,
    TableEncoder,
    exact_recall,
    plot_tradeoff,
)
from pyterrier_csplade.data import PythonDocsDataset
from support.fake_opensearch import FakeCluster
from support.texts import DOCUMENTS

ROOT = Path(pyterrier_csplade.__file__).parent


def examples() -> Iterator[tuple[str, str]]:
    """Yield the name and the code of each example in a docstring."""
    for path in sorted(ROOT.rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = inspect.cleandoc(ast.get_docstring(node) or "")
                for block in re.findall(r"^Example::\n((?:\n|[ ]+.*(?:\n|$))+)", text, re.MULTILINE):
                    yield f"{module}.{getattr(node, 'name', '')}", textwrap.dedent(block)


EXAMPLES = dict(examples())


class Dataset:
    """A small collection with the interface of a PyTerrier dataset."""

    def __init__(self, topics: pd.DataFrame, qrels: pd.DataFrame) -> None:
        self._topics, self._qrels = topics, qrels

    def get_corpus_iter(self) -> list[dict[str, str]]:
        return [{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()]

    def get_topics(self) -> pd.DataFrame:
        return self._topics

    def get_qrels(self) -> pd.DataFrame:
        return self._qrels

    def text_loader(self, fields: Any, *, verbose: bool) -> pt.Transformer:
        return pt.apply.text(lambda row: DOCUMENTS[row["docno"]])


@pytest.fixture(scope="module")
def indexes(csplade: CSPLADE, tmp_path_factory: pytest.TempPathFactory) -> tuple[ImpactIndex, Any]:
    """An index of impacts and an index of words."""
    corpus, path = [{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()], tmp_path_factory.mktemp("given")
    impacts = ImpactIndex(path / "impacts")
    (csplade.doc_encoder() >> impacts).index(corpus)
    words = pt.terrier.TerrierIndex(str(path / "words"))
    words.indexer(meta={"docno": 20}).index(corpus)
    return impacts, words


@pytest.fixture
def names(
    csplade: CSPLADE,
    indexes: tuple[ImpactIndex, Any],
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """Names that the examples use without defining them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CSPLADE, "tiny", lambda: csplade)
    cluster = FakeCluster()
    monkeypatch.setattr(opensearchpy, "OpenSearch", lambda hosts, **settings: cluster.client(hosts[0]))
    dataset, encoder, (index, words) = Dataset(topics, qrels), csplade.query_encoder(), indexes
    found = {"pt": pt, "nDCG": nDCG, "dataset": dataset, "csplade": csplade, "index": index, "bm25": words.bm25()}
    found |= {"encoder": encoder, "corpus": dataset.get_corpus_iter(), "topics": topics, "queries": topics, "qrels": qrels}
    found |= {"exact": encoder >> index.retriever(algorithm="exhaustive"), "systems": [encoder >> index.retriever()]}
    classes = (
        CSPLADE,
        EncodedCollection,
        FoldTerms,
        ImpactIndex,
        OpenSearchIndex,
        PruneToks,
        QueryTable,
        TableEncoder,
        exact_recall,
        plot_tradeoff,
    )
    return {**found, **{value.__name__: value for value in classes}}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 12 and {"__init__.", "index/index.ImpactIndex", "model/scorer.Scorer"} <= EXAMPLES.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("data/python_docs"):
        names.pop("dataset")
        topics = pt.get_dataset("csplade:python-docs").get_topics().head(3)
        monkeypatch.setattr(PythonDocsDataset, "get_topics", lambda self, variant=None: topics)
    if "(csplade.doc_encoder() >>" in EXAMPLES[name]:
        names["index"] = ImpactIndex("built-by-the-example")
    exec(compile(EXAMPLES[name], name, "exec"), names)
    for made in {"pipeline", "retriever"} & names.keys():
        assert len(names[made].search("inverted index")) > 0
