"""Documents and datasets by the name that a user gives: a file, a directory, or a dataset of PyTerrier or ir_datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import DataError

from .directory import CollectionFiles, field_texts
from .jsonl import open_bytes, read_jsonl

# Names of a document's identifier in common JSONL files: PyTerrier, ir_datasets, Tevatron, BEIR, Anserini.
_IDENTIFIERS = ("docno", "doc_id", "docid", "_id", "id")


@dataclass(frozen=True)
class Source:
    """Documents that can be read more than once.

    Attributes:
        name: Name used in error messages.
        read: Starts reading; returns dicts with ``docno`` and fields.
        count: Returns the number of documents; reads them if there is no other way.
    """

    name: str
    read: Callable[[], Iterable[Mapping[str, Any]]]
    count: Callable[[], int]

    def documents(self, fields: Sequence[str], text_field: str) -> Iterator[dict[str, Any]]:
        """Yield ``docno`` and the text of documents.

        Args:
            fields: Fields that make up the text, joined by spaces. A field with which the next one begins is left out, because
                many texts repeat their title.
            text_field: Name of the text.

        Raises:
            DataError: A field of a document is missing or not a string; the message names the document.
        """
        for document in self.read():
            docno = document.get("docno")
            texts = field_texts(document, fields, f"{self.name}, document {docno}")
            kept = [text for text, following in zip(texts, [*texts[1:], ""]) if not following or not following.startswith(text)]
            yield {"docno": docno, text_field: " ".join(filter(None, kept))}


def open_source(name: str) -> Source:
    """Find documents.

    Args:
        name: An ir_datasets id or the name of a PyTerrier dataset; or a path. A ``.jsonl`` or ``.jsonl.gz`` file has text
            fields and an identifier called ``docno``, ``doc_id``, ``docid``, ``_id`` or ``id``. Any other file or directory
            holds TREC documents, which have the fields ``title`` and ``body``.

    Raises:
        DataError: There are no documents of this name.
    """
    path = Path(name)
    if name.endswith((".jsonl", ".jsonl.gz")):
        if not path.is_file():
            raise DataError(f"there is no file {name}")
        return Source(name, lambda: _read_jsonl(path), lambda: _count_lines(path, b""))
    if path.exists():
        return Source(name, lambda: _read_trec(path), lambda: sum(_count_lines(file, b"<DOC>") for file in _trec_files(path)))
    dataset = _get_dataset(name, f"irds:{name}")
    if dataset is None:
        raise DataError(f"there is no file, ir_datasets id or PyTerrier dataset {name!r}")
    return dataset_source(dataset, name)


def dataset_source(dataset: Any, name: str) -> Source:
    """Return the documents of a PyTerrier dataset."""

    def read() -> Iterable[Mapping[str, Any]]:
        try:
            return dataset.get_corpus_iter(verbose=False)
        except NotImplementedError as error:
            raise DataError(f"the dataset {name} has no documents") from error

    def count() -> int:
        known = dataset.irds_ref().docs_count() if hasattr(dataset, "irds_ref") else None
        return sum(1 for _ in read()) if known is None else known

    return Source(name, read, count)


def read_corpus(source: str, text_fields: Sequence[str]) -> Iterator[str]:
    """Yield the text of every document.

    Args:
        source: A ``.jsonl`` or ``.jsonl.gz`` file, a directory with ``docs.jsonl`` or ``docs.jsonl.gz``, or the name of a
            PyTerrier dataset (``irds:`` ids included).
        text_fields: Fields that make up the text, joined by spaces.

    Raises:
        DataError: A field of a document is missing or not a string; the message names the document.
    """
    documents: Iterable[tuple[Any, Mapping[str, Any]]]
    if Path(source).is_dir():
        source = str(CollectionFiles(source).docs)
    if source.endswith((".jsonl", ".jsonl.gz")):
        documents = read_jsonl(source)
    else:
        documents = ((document["docno"], document) for document in dataset_source(find_dataset(source), source).read())
    for name, document in documents:
        yield " ".join(field_texts(document, text_fields, f"{source}, document {name}"))


def find_dataset(name: str) -> Any:
    """Return a PyTerrier dataset to train on.

    Raises:
        DataError: There is no dataset of this name.
    """
    dataset = _get_dataset(name)
    if dataset is None:
        raise DataError(
            f"{name}: neither a .jsonl or .jsonl.gz file, nor a directory with docs.jsonl.gz, nor a PyTerrier dataset"
        )
    return dataset


def _get_dataset(*names: str) -> Any:
    """Return the first dataset that exists, or None."""
    for name in names:
        with suppress(KeyError, ValueError):
            return pt.get_dataset(name)
    return None


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in read_jsonl(path):
        identifier = next((name for name in _IDENTIFIERS if name in row), None)
        if identifier is None:
            raise DataError(f"{path}, line {number}: the document has none of {', '.join(_IDENTIFIERS)}")
        yield {"docno": row.pop(identifier), **row}


def _read_trec(path: Path) -> Iterator[dict[str, Any]]:
    from ir_datasets.formats import TrecDocs
    from ir_datasets.util import GzipExtract, LocalDownload

    for file in _trec_files(path):
        local = LocalDownload(file)
        found = 0
        # The other parsers skip documents whose </DOC> has no line feed after it, or has a carriage return before it.
        for document in TrecDocs(GzipExtract(local) if file.suffix == ".gz" else local, parser="sax").docs_iter():
            found += 1
            yield {"docno": document.doc_id, "title": document.title, "body": document.body}
        expected = _count_lines(file, b"<DOC>")
        if found != expected:
            raise DataError(f"{file}: {expected:,} documents begin with <DOC>, but {found:,} can be parsed: repair the file")


def _trec_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _count_lines(path: Path, prefix: bytes) -> int:
    with open_bytes(path) as lines:
        return sum(line.startswith(prefix) for line in lines)
