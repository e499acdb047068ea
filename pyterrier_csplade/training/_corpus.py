"""Text to train on, from files and PyTerrier datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._jsonl import read_jsonl

from ._collection_files import CollectionFiles


def read_corpus(source: str, text_fields: Sequence[str]) -> Iterator[str]:
    """Yield the text of every document.

    Args:
        source: A ``.jsonl`` or ``.jsonl.gz`` file, a directory with ``docs.jsonl.gz``, or the name of a PyTerrier dataset
            (``irds:`` ids included).
        text_fields: Fields that are joined by a space.

    Raises:
        DataError: A document lacks a field or its value is no text.
    """
    documents: Iterable[tuple[Any, dict[str, Any]]]
    if Path(source).is_dir():
        source = str(CollectionFiles(source).docs)
    if source.endswith((".jsonl", ".jsonl.gz")):
        documents = read_jsonl(source)
    else:
        documents = ((document["docno"], document) for document in find_dataset(source).get_corpus_iter(verbose=False))
    for name, document in documents:
        for text_field in text_fields:
            if not isinstance(document.get(text_field), str):
                raise DataError(f"{source}, document {name}: the field {text_field!r} is missing or no text")
        yield " ".join(document[text_field] for text_field in text_fields)


def find_dataset(name: str) -> Any:
    """Return a PyTerrier dataset.

    Raises:
        DataError: There is none of this name.
    """
    import pyterrier as pt

    try:
        return pt.get_dataset(name)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{name}: neither a .jsonl or .jsonl.gz file, nor a directory with docs.jsonl.gz, nor a PyTerrier dataset"
        ) from error
