"""A collection in a directory of files: documents, topics, judgements and training triples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_csplade._errors import DataError

from .jsonl import read_jsonl, read_lines


class CollectionFiles:
    """A collection in a directory.

    The directory contains ``docs.jsonl`` (docno, text and optionally title), and any of these files:

    - ``topics.SPLIT.tsv`` (qid TAB query) and ``qrels.SPLIT.txt`` (TREC) for splits such as train and dev; the files of the
      test split are ``topics.tsv`` and ``qrels.txt``.
    - ``train.triples.jsonl`` ({"qid", "pos": docnos, "neg": docnos}).

    JSONL files may be gzip-compressed.
    """

    def __init__(self, directory: str | Path) -> None:
        """Open a directory.

        Raises:
            DataError: It contains no documents.
        """
        self.directory = Path(directory)
        self.docs = self.find("docs.jsonl")

    def find(self, name: str) -> Path:
        """Return a file of the directory, gzip-compressed or not.

        Raises:
            DataError: There is no such file.
        """
        for path in (self.directory / f"{name}.gz", self.directory / name):
            if path.is_file():
                return path
        raise DataError(f"{self.directory} contains no {name} or {name}.gz")

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield the documents.

        Raises:
            DataError: A line has no docno or text; the message names the line.
        """
        for number, document in read_jsonl(self.docs):
            field_texts(document, ("docno", "text"), f"{self.docs}, line {number}")
            yield document

    def topics(self, split: str) -> pd.DataFrame:
        """Return qid and query of a split; "test" and "" mean ``topics.tsv``, which has no split in its name.

        Raises:
            DataError: There is no such file, or a line has no tab.
        """
        path = self._split_file("topics", split, "tsv")
        rows = []
        for number, line in read_lines(path):
            qid, tab, query = line.rstrip("\r\n").partition("\t")
            if not tab:
                raise DataError(f"{path}, line {number}: expected qid TAB query, found {line.rstrip()[:60]!r}")
            rows.append((qid, query))
        return pd.DataFrame(rows, columns=["qid", "query"])

    def qrels(self, split: str) -> pd.DataFrame:
        """Return qid, docno and label of a split, named as in ``topics``."""
        return read_trec_qrels(self._split_file("qrels", split, "txt"))

    def training_topics(self) -> dict[str, str]:
        """Return a dict of qid to query of the train and test splits; graded pools train on the test split."""
        found: dict[str, str] = {}
        for split in ("test", "train"):
            if self._path("topics", split, "tsv").is_file():
                topics = self.topics(split)
                found |= dict(zip(topics["qid"], topics["query"]))
        return found

    def _path(self, kind: str, split: str, suffix: str) -> Path:
        middle = "" if split in ("", "test") else f".{split}"
        return self.directory / f"{kind}{middle}.{suffix}"

    def _split_file(self, kind: str, split: str, suffix: str) -> Path:
        path = self._path(kind, split, suffix)
        if not path.is_file():
            found = sorted(p.name for p in self.directory.glob(f"{kind}*.{suffix}"))
            raise DataError(f"{self.directory} contains no {path.name}; it has {', '.join(found) or 'no ' + kind}")
        return path


def read_trec_qrels(path: Path) -> pd.DataFrame:
    """Return qid, docno and label from a file of judgements in TREC's format.

    Raises:
        DataError: A line has another form; the message names the line.
    """
    rows = []
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 4 or not re.fullmatch("-?[0-9]{1,18}", fields[3]):
            raise DataError(f"{path}, line {number}: expected qid 0 docno label, found {line.rstrip()[:60]!r}")
        rows.append((fields[0], fields[2], int(fields[3])))
    return pd.DataFrame(rows, columns=["qid", "docno", "label"])


def field_texts(document: Mapping[str, Any], fields: Sequence[str], where: str) -> list[str]:
    """Return the texts of a document's fields.

    Raises:
        DataError: A field is missing or not a string; the message begins with ``where``.
    """
    for name in fields:
        if not isinstance(document.get(name), str):
            others = ", ".join(key for key, value in document.items() if isinstance(value, str) and key != "docno")
            raise DataError(f"{where}: the field {name!r} is missing or not a string; its texts are: {others or 'none'}")
    return [document[name] for name in fields]
