"""Encoding and indexing in one pipeline: an error surfaces, and leaves no index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyterrier_csplade import CSPLADE, ContractError, DataError, ImpactIndex
from support.models import language_model, tokenizer
from support.texts import DOCUMENTS


def corpus() -> Iterator[dict[str, str]]:
    return ({"docno": docno, "text": text} for docno, text in DOCUMENTS.items())


@pytest.mark.parametrize(
    ("bad", "message"), [(None, "document 59: expected text"), ("a\ud800", "document 59: .*lone surrogate")]
)
def test_an_error_of_the_encoder_surfaces_and_leaves_no_index(csplade: CSPLADE, tmp_path: Path, bad: Any, message: str) -> None:
    index = ImpactIndex(tmp_path / "index")
    documents = ({"docno": str(number), "text": bad if number == 59 else "a text"} for number in range(100))
    with pytest.raises(DataError, match=message):
        (csplade.doc_encoder(batch_size=1) >> index).index(documents)
    assert not (tmp_path / "index").exists() and not index.built()


def test_an_error_of_the_collection_surfaces(csplade: CSPLADE, tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, str]]:
        yield from corpus()
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        (csplade.doc_encoder() >> ImpactIndex(tmp_path / "index")).index(broken())
    assert not (tmp_path / "index").exists()


def test_a_document_without_text_is_kept_and_found_by_its_docno(csplade: CSPLADE, tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index")
    with pytest.warns(UserWarning, match="1 of 9 documents"):
        (csplade.doc_encoder() >> index).index([*corpus(), {"docno": "blank", "text": " "}])
    assert len(index) == 9
    assert index.index_obj().getMetaIndex().getDocument("docno", "blank") == 8


def test_queries_of_another_model_are_refused(csplade: CSPLADE, tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index")
    (csplade.doc_encoder() >> index).index(corpus())
    other = CSPLADE((language_model(seed=1), tokenizer()))
    with pytest.raises(ContractError, match="fingerprint .* fingerprint"):
        (other.query_encoder() >> index.retriever()).search("dogs")


def test_documents_of_two_models_are_refused(csplade: CSPLADE, tmp_path: Path) -> None:
    other = CSPLADE((language_model(seed=1), tokenizer()))
    mixed = [
        *csplade.doc_encoder()([{"docno": "1", "text": "dogs"}]),
        *other.doc_encoder()([{"docno": "2", "text": "dogs"}]),
    ]
    with pytest.raises(ContractError, match="document '2'"):
        ImpactIndex(tmp_path / "index").index(mixed)
