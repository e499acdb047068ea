"""Refusals of Terrier, Java or the system become one sentence of Python, and leave the index as it was."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from inside.index import PythonDocsDataset, _exchange, _explanation, _has_java, read_metadata
from pyterrier_csplade import CSPLADE, Contract, ContractError, DataError, ImpactIndex, ImpactIndexError
from pyterrier_csplade.index.terrier import summary
from support.indexes import CONTRACT, documents, search
from support.models import language_model, tokenizer

TRACE = "JVM exception occurred: no space for you java.io.IOException\n\tat org.terrier.Some.method(Some.java:12)\n\tat more"
ONE_LINE = "no space for you java.io.IOException"


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError(TRACE)


@pytest.fixture
def index(tmp_path: Path) -> ImpactIndex:
    return ImpactIndex(tmp_path / "index").index(documents(contract=CONTRACT))


def error_of(use: Any) -> str:
    with pytest.raises(ImpactIndexError) as raised:
        use()
    message = str(raised.value)
    assert ONE_LINE in message and "\n" not in message and "org.terrier" not in message
    return message


def test_a_trace_is_cut_to_its_first_line() -> None:
    assert summary(RuntimeError(TRACE)) == ONE_LINE
    assert summary(ValueError("of Python")) == "of Python"


def test_a_search_that_fails(index: ImpactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = index.retriever()
    monkeypatch.setattr(retriever, "_search_one", refuse)
    query = pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0}}])
    assert f"could not search {index.path}" in error_of(lambda: retriever.transform(query))
    monkeypatch.undo()
    assert len(retriever.transform(query)) == 10


def test_an_index_that_cannot_be_opened(index: ImpactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    again = ImpactIndex(index.path)
    monkeypatch.setattr(pt.terrier.IndexFactory, "of", refuse)
    assert f"cannot open {index.path}" in error_of(again.index_obj)
    monkeypatch.undo()
    assert len(search(again, {"a": 1})) == 10


def test_an_index_that_cannot_be_read_back_is_not_published(index: ImpactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in index.directory.iterdir()}
    monkeypatch.setattr(pt.terrier.IndexFactory, "of", refuse)
    error_of(lambda: ImpactIndex(index.path).toks_indexer(overwrite=True).index(documents(3)))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in index.directory.iterdir()} == before
    assert [path.name for path in index.directory.parent.iterdir()] == [index.directory.name]


def build(path: Path, url: str) -> ImpactIndex:
    stream = [{**document, "url": url} for document in documents()]
    return ImpactIndex(path).toks_indexer(meta={"url": 10}, overwrite=True).index(stream)


def test_fields_of_an_index_that_was_built_again_are_not_mixed(tmp_path: Path) -> None:
    query = pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0}}])
    old = build(tmp_path / "i", "old")
    retriever = old.retriever(algorithm="exhaustive", include_fields=["url"])
    old.postings()  # open, while Terrier, which has the fields, is not
    build(tmp_path / "i", "new")
    with pytest.raises(ImpactIndexError, match="was built again while it was open: call close\\(\\), and search again"):
        retriever.transform(query)
    old.close()
    assert set(retriever.transform(query)["url"]) == {"new"}


def test_an_open_index_that_was_built_again_goes_on_as_it_was(tmp_path: Path) -> None:
    query = pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0}}])
    retriever = build(tmp_path / "i", "old").retriever(algorithm="exhaustive", include_fields=["url"])
    assert set(retriever.transform(query)["url"]) == {"old"}
    assert set(build(tmp_path / "i", "new").retriever(include_fields=["url"]).transform(query)["url"]) == {"new"}
    assert set(retriever.transform(query)["url"]) == {"old"}


@pytest.mark.parametrize("content", ["{", "[]", "null", '"text"'])
def test_damaged_metadata_is_named(index: ImpactIndex, content: str) -> None:
    (index.directory / "pt_meta.json").write_text(content)
    with pytest.raises(ImpactIndexError, match="pt_meta.json is damaged .*build the index again"):
        read_metadata(index.directory)


@pytest.mark.parametrize("term", ["", "x" * 61, "ü" * 31, 7, None, ("a",)])
@pytest.mark.parametrize("before", [0, 3])
def test_a_term_that_no_index_holds_names_its_document(tmp_path: Path, term: Any, before: int) -> None:
    stream = [*documents(before), {"docno": "odd", "toks": {"fine": 1, term: 2}}, *documents(1)]
    with pytest.raises(DataError, match="odd"):
        ImpactIndex(tmp_path / "i").index(stream)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- systems


@pytest.mark.parametrize(("status", "found"), [(0, True), (1, False)])
def test_a_mac_is_asked_by_its_own_program(monkeypatch: pytest.MonkeyPatch, status: int, found: bool) -> None:
    for name in ("JAVA_HOME", "JDK_HOME", "JRE_HOME"):
        monkeypatch.delenv(name, raising=False)
    asked: list[list[str]] = []

    def run(command: list[str], **kwargs: Any) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    assert _has_java() is found
    assert asked == [["/usr/libexec/java_home"]]


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])  # another libc, none, and Windows
def test_without_an_exchange_of_names_an_index_is_replaced_in_two_steps(
    index: ImpactIndex, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def missing(name: None) -> Any:
        raise error("no renameat2")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not _exchange(index.directory, index.directory)
    ImpactIndex(index.path).toks_indexer(overwrite=True).index(documents(4))
    assert len(ImpactIndex(index.path)) == 4
    assert [path.name for path in index.directory.parent.iterdir()] == [index.directory.name]
    ImpactIndex(index.path).verify()


# ---------------------------------------------------------------------- models and the demonstration


def test_a_variant_that_contradicts_the_given_contract() -> None:
    pair = (language_model(), tokenizer())
    assert CSPLADE(pair, variant="echo", contract=Contract(variant="echo")).contract.variant == "echo"
    with pytest.raises(ContractError, match="variant='causal' contradicts the given contract's variant 'echo'"):
        _ = CSPLADE(pair, variant="causal", contract=Contract(variant="echo")).contract


def test_a_query_without_hits_is_explained(csplade: CSPLADE) -> None:
    nothing = pt.Transformer.from_df(pd.DataFrame(columns=["qid", "query", "docno", "score", "rank"]))
    query = PythonDocsDataset().get_topics()["query"][0]
    shown = _explanation(csplade, nothing, "q", query, pd.DataFrame(columns=["docno", "text"]))
    assert shown.splitlines()[1] == f"query: {query}" and shown.endswith("nothing found") and "expansion: " in shown
