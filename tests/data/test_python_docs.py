"""The known-item collection of the standard library's docstrings as a PyTerrier dataset."""

from __future__ import annotations

import heapq
import inspect
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from inside.data import python_docs
from pyterrier_csplade import DataError
from pyterrier_csplade.data import CspladeDatasetProvider, PythonDocsDataset, read_python_docs


@pytest.fixture(scope="module")
def dataset() -> PythonDocsDataset:
    return PythonDocsDataset()


@pytest.fixture(scope="module")
def corpus(dataset: PythonDocsDataset) -> dict[str, str]:
    documents = list(dataset.get_corpus_iter(verbose=False))
    assert all(list(document) == ["docno", "text"] for document in documents)
    texts = {document["docno"]: document["text"] for document in documents}
    assert len(texts) == len(documents)
    return texts


@pytest.mark.parametrize("function", [textwrap.dedent, textwrap.shorten, shutil.which, heapq.merge, inspect.getdoc])
def test_documents_are_those_that_python_itself_shows(
    dataset: PythonDocsDataset, corpus: dict[str, str], function: Any
) -> None:
    docno = f"{function.__module__}.{function.__name__}"
    shown = inspect.getdoc(function)
    assert shown is not None
    first, _, rest = shown.partition("\n")
    topics = dataset.get_topics().set_index("qid")["query"]
    assert topics[docno] == " ".join(first.split())
    assert corpus[docno].split() == rest.split()


def test_the_size_is_as_documented(corpus: dict[str, str]) -> None:
    assert 2_000 < len(corpus) < 3_500


def test_each_query_has_one_relevant_document_that_exists(dataset: PythonDocsDataset, corpus: dict[str, str]) -> None:
    topics, qrels = dataset.get_topicsqrels()
    assert topics.columns.tolist() == ["qid", "query"]
    assert qrels.columns.tolist() == ["qid", "docno", "label"]
    assert topics["qid"].is_unique and qrels["qid"].is_unique
    assert set(qrels["qid"]) == set(topics["qid"])
    assert set(qrels["docno"]) <= set(corpus)
    assert (qrels["label"] == 1).all()
    summaries = [doc.summary for doc in python_docs._docs()]
    assert len(set(summaries)) == len(summaries)
    assert min(len(summary.split()) for summary in summaries) >= 3


def test_nothing_depends_on_what_is_installed_beside_the_standard_library(corpus: dict[str, str]) -> None:
    parts = {part for docno in corpus for part in docno.split(".")}
    assert not parts & {"site-packages", "dist-packages", "numpy", "pytest", "idle_test"}
    assert not any(part.startswith("_") and not part.endswith("__") for part in parts)


def test_docstrings_become_documents_by_hand(tmp_path: Path) -> None:
    source = '''
"""Too short."""

def good():
    """Say one thing clearly.

    The body has   at least eight words, over
    two lines of text.
    """

class Twin:
    """The summary of twins here.

    These words appear below two summaries, so both go.
    """

    def twin(self):
        """Another summary of the twins.

        These words appear below two summaries, so both go.
        """

def _private():
    """Nobody should see this one.

    The body has at least eight words, over two lines.
    """

def short():
    """Three words here.

    Body too short.
    """
'''
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(source, encoding="utf-8")
    (tmp_path / "package" / "broken.py").write_text("def (", encoding="utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "case.py").write_text(source, encoding="utf-8")
    body = "The body has at least eight words, over two lines of text."
    assert read_python_docs(tmp_path) == [("package.good", "Say one thing clearly.", body)]


def test_pyterrier_finds_the_dataset(corpus: dict[str, str]) -> None:
    found = pt.get_dataset("csplade:python-docs")
    assert {document["docno"] for document in found.get_corpus_iter(verbose=False)} == set(corpus)
    assert len(found.get_topics()) == len(found.get_qrels()) == len(corpus)
    assert (found.get_corpus_lang(), found.get_topics_lang()) == ("en", "en")
    assert found.info_url() == "https://docs.python.org/3/library/"
    assert [found._describe_component(name) for name in ("corpus", "topics", "qrels", "index")] == [True, True, True, None]
    assert CspladeDatasetProvider().list_dataset_names() == ["python-docs"]


def test_plain_bm25_understands_the_queries_with_operators(
    dataset: PythonDocsDataset, corpus: dict[str, str], tmp_path: Path
) -> None:
    summaries = {doc.docno: doc.summary for doc in python_docs._docs()}
    topics = dataset.get_topics()
    changed = topics[topics["qid"].map(summaries) != topics["query"]]
    assert 10 < len(changed) < 200
    assert not topics["query"].str.contains("[:^]").any()
    documents = [{"docno": qid, "text": corpus[qid]} for qid in changed["qid"]]
    index = pt.IterDictIndexer(str(tmp_path / "index"), meta={"docno": 100}).index(documents)
    found = pt.terrier.Retriever(index, wmodel="BM25").transform(changed)
    assert found["qid"].nunique() > 0.9 * len(changed)


def test_texts_are_loaded_for_results(dataset: PythonDocsDataset, corpus: dict[str, str]) -> None:
    loader = pt.text.get_text(dataset, "text")
    results = pd.DataFrame({"qid": ["1", "1"], "docno": ["textwrap.dedent", "heapq.merge"], "score": [2.0, 1.0]}, index=[7, 3])
    loaded = loader.transform(results)
    assert loaded["text"].tolist() == [corpus["textwrap.dedent"], corpus["heapq.merge"]]
    pd.testing.assert_frame_equal(loaded.drop(columns="text"), results)
    assert pt.inspect.transformer_outputs(loader, ["qid", "docno"]) == ["qid", "docno", "text"]
    assert loader == dataset.text_loader(["text"]) and hash(loader) == hash(dataset.text_loader())
    with pytest.raises(DataError, match="no document 'no.such'"):
        loader.transform(pd.DataFrame({"docno": ["no.such"]}))
    with pytest.raises(ValueError, match="one field, 'text', found 'title'"):
        dataset.text_loader("title")


def test_unknown_names_and_variants_are_refused(dataset: PythonDocsDataset) -> None:
    with pytest.raises(KeyError):
        CspladeDatasetProvider().get_dataset("no-such-dataset")
    with pytest.raises(ValueError, match="no variants, found 'train'"):
        dataset.get_topics("train")
    with pytest.raises(ValueError, match="no variants"):
        dataset.get_qrels(variant="train")


def test_a_python_without_source_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_docs, "read_python_docs", list)
    with pytest.raises(DataError, match="without the source of its standard library"):
        python_docs._docs.__wrapped__()


def test_the_progress_bar_is_optional(dataset: PythonDocsDataset, capsys: pytest.CaptureFixture[str]) -> None:
    next(iter(dataset.get_corpus_iter(verbose=False)))
    assert capsys.readouterr().err == ""
    list(dataset.get_corpus_iter())
    assert "csplade:python-docs documents" in capsys.readouterr().err
