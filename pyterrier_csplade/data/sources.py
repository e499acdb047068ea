"""The documents to encode, by the name that a user gives them."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import DataError

from .directory import CollectionFiles
from .jsonl import read_jsonl

# How the usual JSONL files call a document's identifier: PyTerrier, ir_datasets, Tevatron, BEIR, Anserini.
_IDENTIFIERS = ("docno", "doc_id", "docid", "_id", "id")


@dataclass(frozen=True)
class Source:
    """Documents that can be read more than once.

    Attributes:
        name: For messages.
        read: Begins to read: dicts with ``docno`` and fields.
        known_count: Their number, if that is known without reading them.
    """

    name: str
    read: Callable[[], Iterable[Mapping[str, Any]]]
    known_count: Callable[[], int | None]

    def count(self) -> int:
        """Count the documents; reads them if it must."""
        known = self.known_count()
        return sum(1 for _ in self.read()) if known is None else known

    def documents(self, fields: Sequence[str], text_field: str) -> Iterator[dict[str, Any]]:
        """Yield ``docno`` and the text of documents.

        Args:
            fields: Those that make the text, joined by a space. One that the next begins with is left out, as a title often is.
            text_field: Name of the text.

        Raises:
            DataError: A document has no such field, or it is no text; names it.
        """
        for document in self.read():
            yield {"docno": document.get("docno"), text_field: _join(document, fields, self.name)}


def open_source(name: str) -> Source:
    """Find documents.

    Args:
        name: An ir_datasets id or the name of a PyTerrier dataset; or a path: ``.jsonl`` or ``.jsonl.gz`` with ``docno``,
            ``doc_id``, ``docid``, ``_id`` or ``id`` and text fields, or anything else for a file or directory of TREC
            documents, which have the fields ``title`` and ``body``.

    Raises:
        DataError: There are no documents of this name.
    """
    path = Path(name)
    if name.endswith((".jsonl", ".jsonl.gz")):
        if not path.is_file():
            raise DataError(f"there is no file {name}")
        return Source(name, lambda: _read_jsonl(path), lambda: _count_lines(path, b""))
    if path.exists():
        return Source(name, lambda: _read_trec(path), lambda: _count_trec(path))
    return dataset_source(_get_dataset(name), name)


def dataset_source(dataset: Any, name: str) -> Source:
    """Read the corpus of a PyTerrier dataset."""

    def read() -> Iterable[Mapping[str, Any]]:
        try:
            return dataset.get_corpus_iter(verbose=False)
        except NotImplementedError as error:
            raise DataError(f"the dataset {name} has no documents") from error

    def count() -> int | None:
        return dataset.irds_ref().docs_count() if hasattr(dataset, "irds_ref") else None

    return Source(name, read, count)


def _get_dataset(name: str) -> Any:
    for full_name in (name, f"irds:{name}"):
        try:
            return pt.get_dataset(full_name)
        except KeyError:
            continue
    raise DataError(f"there is no file, ir_datasets id or PyTerrier dataset {name!r}")


def _join(document: Mapping[str, Any], fields: Sequence[str], source: str) -> str:
    texts = []
    for name in fields:
        text = document.get(name)
        if not isinstance(text, str):
            others = ", ".join(key for key, value in document.items() if isinstance(value, str) and key != "docno")
            raise DataError(
                f"{source}, document {document.get('docno')}: the field {name!r} is missing or no text; its texts are: {others}"
            )
        texts.append(text)
    kept = [text for text, following in zip(texts, [*texts[1:], ""]) if text and not (following and following.startswith(text))]
    return " ".join(kept)


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in read_jsonl(path):
        identifier = next((name for name in _IDENTIFIERS if name in row), None)
        if identifier is None:
            raise DataError(f"{path}, line {number}: none of {', '.join(_IDENTIFIERS)} is there")
        yield {"docno": row[identifier], **{name: value for name, value in row.items() if name != identifier}}


def _read_trec(path: Path) -> Iterator[dict[str, Any]]:
    from ir_datasets.formats import TrecDocs
    from ir_datasets.util import GzipExtract, LocalDownload

    for file in _trec_files(path):
        local = LocalDownload(file)
        found = 0
        # Its other parsers pass over documents without a line feed behind </DOC>, or with one after a carriage return.
        for document in TrecDocs(GzipExtract(local) if file.suffix == ".gz" else local, parser="sax").docs_iter():
            found += 1
            yield {"docno": document.doc_id, "title": document.title, "body": document.body}
        expected = _count_lines(file, b"<DOC>")
        if found != expected:
            raise DataError(f"{file}: {found:,} documents can be parsed of {expected:,} that begin with <DOC>: repair the file")


def _count_trec(path: Path) -> int:
    return sum(_count_lines(file, b"<DOC>") for file in _trec_files(path))


def _trec_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _count_lines(path: Path, prefix: bytes) -> int:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        return sum(line.startswith(prefix) for line in lines)


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
