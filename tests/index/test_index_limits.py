"""The extremes of docnos, documents and impacts, through the real Terrier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pyterrier_csplade import DataError, ImpactIndex
from support.indexes import docnos, documents, search


@pytest.mark.parametrize("long", ["x" * 21, "🙂" * 11, "é" * 300, "x" * 4096])
def test_long_docno_late_is_kept_exactly(tmp_path: Path, long: str) -> None:
    stream = documents(600)
    stream[499]["docno"] = long
    index = ImpactIndex(tmp_path / "i").index(stream)
    assert docnos(index) == [document["docno"] for document in stream]
    assert search(index, {"Ġb499": 1}) == [(long, 2)]


NASTY = [
    "",
    "a b",
    "a\nb",
    "a\0b",
    "a\tb",
    "../x",
    "אבג",
    "d\ufeff",
    '"}\n{"index":',
    "🙂",
    "e\u0301",
    "é",
    "A",
    "a",
    "d\u3000",
    "\\",
    "\u2028",
]


def test_nasty_docnos_come_back_exactly(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "i").index({"docno": docno, "toks": {f"t{i}": i + 1}} for i, docno in enumerate(NASTY))
    assert docnos(index) == NASTY
    assert [search(index, {f"t{i}": 1}) for i in range(len(NASTY))] == [[(docno, i + 1)] for i, docno in enumerate(NASTY)]


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(
        st.text(min_size=1, max_size=40).filter(lambda text: text.encode("utf-8", "ignore").decode() == text),
        unique=True,
        min_size=20,
    )
)
def test_any_accepted_docno_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    stream = [text for text in texts if text[0] > " " and text[-1] > " " and text[0] != "\ufeff"]
    if stream:
        index = ImpactIndex(tmp_path_factory.mktemp("docnos") / "i").index(
            {"docno": docno, "toks": {"a": 1}} for docno in stream
        )
        assert docnos(index) == stream


def test_empty_documents_are_kept_with_a_warning(tmp_path: Path) -> None:
    stream = [{"docno": f"d{i}", "toks": {} if i % 2 else {"a": i + 1, "b": 0}} for i in range(10)]
    with pytest.warns(UserWarning, match=r"5 of 10 documents \(50.0%\)"):
        index = ImpactIndex(tmp_path / "i").index(stream)
    assert docnos(index) == [f"d{i}" for i in range(10)]
    assert search(index, {"a": 1, "b": 1}) == [("d8", 9), ("d6", 7), ("d4", 5), ("d2", 3), ("d0", 1)]


def test_mostly_empty_documents_are_refused_unless_allowed(tmp_path: Path) -> None:
    stream = [{"docno": f"d{i}", "toks": {"a": 1} if i == 7 else {"a": 0}} for i in range(10)]
    index = ImpactIndex(tmp_path / "i")
    with pytest.raises(DataError, match=r"9 of 10 documents \(90.0%\)"):
        index.index(stream)
    with pytest.warns(UserWarning, match="9 of 10"):
        index.toks_indexer(max_empty=1).index(stream)
    assert len(index) == 10
    assert search(index, {"a": 1}) == [("d7", 1)]


@pytest.mark.parametrize("stream", [[], [{"docno": "d", "toks": {}}], [{"docno": "d", "toks": {"a": -1}}]])
def test_nothing_to_index_is_refused_in_python(tmp_path: Path, stream: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="nothing to index"):
        ImpactIndex(tmp_path / "i").toks_indexer(max_empty=1).index(stream)
    assert list(tmp_path.iterdir()) == []


def test_fractional_weights_are_rounded_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="rounded"):
        index = ImpactIndex(tmp_path / "i").index([{"docno": "d", "toks": {"a": 2.5, "b": 0.4}}])
    assert search(index, {"a": 1, "b": 1}) == [("d", 3)]


def test_large_impacts_are_exact(tmp_path: Path) -> None:
    # Terrier writes an impact of n with n bits, so the largest, 2**31 - 1, would take 256 MiB.
    index = ImpactIndex(tmp_path / "i").index([{"docno": f"d{i}", "toks": {"a": 2**20 - i}} for i in range(3)])
    assert search(index, {"a": 0.5}) == [(f"d{i}", (2**20 - i) / 2) for i in range(3)]


def test_document_of_many_terms(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "i").index([{"docno": "d", "toks": {f"Ġ{i}": i + 1 for i in range(10_000)}}])
    query = {f"Ġ{i}": 0.25 for i in range(0, 10_000, 5)}
    assert search(index, query) == [("d", sum(i + 1 for i in range(0, 10_000, 5)) / 4)]
