"""Text to train on, from files and PyTerrier datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._jsonl import read_jsonl


def read_corpus(source: str, text_fields: Sequence[str]) -> Iterator[str]:
    """Yield the text of every document.

    Args:
        source: A ``.jsonl`` or ``.jsonl.gz`` file, or the name of a PyTerrier dataset (``irds:`` ids included).
        text_fields: Fields that are joined by a space.

    Raises:
        DataError: A document lacks a field or its value is no text.
    """
    documents: Iterable[tuple[Any, dict[str, Any]]]
    if source.endswith((".jsonl", ".jsonl.gz")):
        documents = read_jsonl(source)
    else:
        import pyterrier as pt

        documents = ((document["docno"], document) for document in pt.get_dataset(source).get_corpus_iter(verbose=False))
    for name, document in documents:
        for text_field in text_fields:
            if not isinstance(document.get(text_field), str):
                raise DataError(f"{source}, document {name}: the field {text_field!r} is missing or no text")
        yield " ".join(document[text_field] for text_field in text_fields)
