"""Documents and datasets by name: a file, a directory, or a dataset of PyTerrier or ir_datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._warnings import warn

from .directory import CollectionFiles, field_texts
from .files import IDENTIFIERS, count_documents, document_files, names_a_format, read_documents

#: Names of a document's vector, an object of term to weight, in PyTerrier and in Anserini's JsonVectorCollection.
VECTOR_FIELDS = ("toks", "vector")

# Prefixes of the files that a directory contains besides documents.
_OTHER_FILES = ("topics", "qrels", "train.triples", "README", ".")


@dataclass(frozen=True)
class Source:
    """Documents that can be read more than once.

    Attributes:
        name: Name in error messages.
        read: Starts reading; returns dicts with ``docno`` and fields.
        count: Returns the number of documents; reads them if there is no other way.
    """

    name: str
    read: Callable[[], Iterable[Mapping[str, Any]]]
    count: Callable[[], int]

    def documents(self, fields: Sequence[str], text_field: str) -> Iterator[dict[str, Any]]:
        """Yield ``docno`` and the text of documents.

        Args:
            fields: Fields that make up the text, joined by spaces. A field is left out if the next field begins with it,
                because many texts repeat their title.
            text_field: Name of the text.

        Raises:
            DataError: A field of a document is missing or not a string; the message names the document.
        """
        for document in self.read():
            docno = document.get("docno")
            texts = field_texts(document, fields, f"{self.name}, document {docno}")
            kept = [text for text, following in zip(texts, [*texts[1:], ""]) if not following or not following.startswith(text)]
            yield {"docno": docno, text_field: " ".join(filter(None, kept))}

    def vector_field(self) -> str | None:
        """Return the vector field of the first document, ``toks`` or ``vector``; None if it has neither."""
        first = next(iter(self.read()), {})
        return next((name for name in VECTOR_FIELDS if isinstance(first.get(name), Mapping)), None)


def open_source(name: str) -> Source:
    """Find documents by name.

    Args:
        name: A path, an ir_datasets id or the name of a PyTerrier dataset. Files with the suffix ``.jsonl``, ``.tsv``, ``.csv``
            (these also with ``.gz``) or ``.parquet`` have text fields and an identifier, a string or an integer called
            ``docno``, ``doc_id``, ``docid``, ``_id`` or ``id``. A TSV file that does not name its columns in the first line
            contains ``docno`` and ``text``. Files with any other name contain TREC documents, with the fields ``title`` and
            ``body``. In a directory, ``docs.jsonl`` or ``docs.jsonl.gz`` is read. If neither exists, all files are read except
            those directly in the directory whose names begin with ``topics``, ``qrels`` or ``README``.

    Raises:
        DataError: There are no documents of this name.
    """
    if (files := source_files(name)) is not None:
        return Source(name, partial(_identified, files), partial(_count_all, files))
    dataset = get_dataset(name, f"irds:{name}")
    if dataset is None:
        raise DataError(f"there is no file, ir_datasets id or PyTerrier dataset {name!r}")
    return dataset_source(dataset, name)


def dataset_source(dataset: Any, name: str) -> Source:
    """Return the documents of a PyTerrier dataset."""
    return Source(name, partial(_read_dataset, dataset, name), partial(_count_dataset, dataset, name))


def read_corpus(source: str, text_fields: Sequence[str]) -> Iterator[str]:
    """Yield the text of every document.

    Args:
        source: A file or directory as in :func:`open_source`, where identifiers are optional, or the name of a PyTerrier
            dataset (including ``irds:`` ids).
        text_fields: Fields that make up the text, joined by spaces.

    Raises:
        DataError: A field of a document is missing or not a string; the message names the document.
    """
    documents: Iterable[tuple[object, Any, Mapping[str, Any]]]
    if (files := source_files(source)) is not None:
        documents = ((file, number, document) for file in files for number, document in read_documents(file))
    else:
        dataset = dataset_source(find_dataset(source), source)
        documents = ((source, document["docno"], document) for document in dataset.read())
    for place, name, document in documents:
        yield " ".join(field_texts(document, text_fields, f"{place}, document {name}"))


def find_dataset(name: str) -> Any:
    """Return a PyTerrier dataset to train on.

    Raises:
        DataError: There is no dataset of this name.
    """
    dataset = get_dataset(name)
    if dataset is None:
        raise DataError(
            f"{name} is neither a .jsonl or .jsonl.gz file, nor a directory with docs.jsonl.gz, nor a PyTerrier dataset"
        )
    return dataset


def source_files(name: str) -> list[Path] | None:
    """Return the files of documents at a path; None if the name is not a path."""
    path = Path(name)
    if not name:
        raise DataError("the name of the documents is empty: give a path, or the name of a dataset")
    if not path.exists():
        if names_a_format(name):
            raise DataError(f"there is no file {name}")
        return None
    with suppress(DataError):
        docs = CollectionFiles(path).docs
        others = [file.name for file in sorted(path.iterdir()) if file != docs and not file.name.startswith(_OTHER_FILES)]
        if others:
            warn(f"{docs} is read, but not the other files of the directory, such as {others[0]}")
        return [docs]
    files = [file for file in document_files(path) if file.parent != path or not file.name.startswith(_OTHER_FILES)]
    if not files:
        raise DataError(f"the directory {name} contains no files of documents")
    return files


def get_dataset(*names: str) -> Any:
    """Return the first dataset of PyTerrier that exists, or None."""
    for name in names:
        with suppress(KeyError, ValueError):
            return pt.get_dataset(name)
    return None


def _read_dataset(dataset: Any, name: str) -> Iterable[Mapping[str, Any]]:
    try:
        found: Iterable[Mapping[str, Any]] = dataset.get_corpus_iter(verbose=False)
    except NotImplementedError as error:
        raise DataError(f"the dataset {name} has no documents") from error
    return found


def _count_dataset(dataset: Any, name: str) -> int:
    known: int | None = dataset.irds_ref().docs_count() if hasattr(dataset, "irds_ref") else None
    return sum(1 for _ in _read_dataset(dataset, name)) if known is None else known


def _count_all(files: Iterable[Path]) -> int:
    return sum(map(count_documents, files))


def _identified(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        for number, row in read_documents(file):
            identifier = next((name for name in IDENTIFIERS if name in row), None)
            if identifier is None:
                found = ", ".join(map(repr, row))[:200]
                raise DataError(f"{file}, line {number}: the document has none of {', '.join(IDENTIFIERS)}, only {found}")
            docno = row.pop(identifier)
            yield {"docno": str(docno) if type(docno) is int else docno, **row}
