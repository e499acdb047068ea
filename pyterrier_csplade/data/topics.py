"""Queries and judgements by name: a file, a directory with topics and qrels, or a dataset."""

from __future__ import annotations

import contextlib
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_csplade._errors import DataError

from .directory import CollectionFiles, read_trec_qrels
from .files import read_rows
from .jsonl import read_lines
from .sources import get_dataset

#: Names of a query's vector, an object of term to weight, in PyTerrier and in JSONL files of other tools.
QUERY_VECTOR_FIELDS = ("query_toks", "vector")

# Names of a query's identifier and text in PyTerrier, ir_datasets, BEIR and TREC; the first that exists is used.
_IDENTIFIERS = ("qid", "query_id", "_id", "id", "number", "num")
_TEXTS = ("query", "text", "title", "question")
_TREC_TAGS = {"desc": "description", "narr": "narrative"}
# Labels that TREC's topics repeat after a tag.
_TREC_LABELS = re.compile(r"\s*(?:Number|Topic|Description|Narrative):", re.IGNORECASE)


def read_topics(name: str, *, split: str | None = None, field: str | None = None) -> pd.DataFrame:
    """Read queries.

    Args:
        name: A file, a directory, an ir_datasets id or a PyTerrier dataset. A JSONL, TSV, CSV or Parquet file has an identifier
            (``qid``, ``query_id``, ``_id`` or ``id``) and a text; a TSV file that does not name its columns contains qid and
            query. A file with any other name contains TREC topics in SGML or XML. A directory has the form of
            :class:`CollectionFiles`, or contains no ``docs.jsonl`` and one file whose name begins with ``topics`` (or
            ``topics.SPLIT``).
        split: Split of a directory, or variant of a dataset's topics; by default the test split, and the only variant.
        field: Field of the text; by default the first of ``query``, ``text``, ``title`` and ``question`` that exists.

    Returns:
        A frame of ``qid`` and ``query``; and ``query_toks``, if the queries of a file have vectors (``query_toks`` or
        ``vector``), in which case ``query`` may be missing.

    Raises:
        DataError: There are no queries of this name, a query has no identifier or text, or a qid appears twice.
    """
    path = _path(name, "queries")
    if (file := _file_in(path, "topics", split)) is not None:
        path = file
    if path.is_dir():
        found = CollectionFiles(path).topics(split or "test")
    elif path.exists():
        found = pd.DataFrame(list(_rows(path, field)))
    else:
        found = _dataset_topics(name, split, field)
    if not len(found):
        raise DataError(f"{name} contains no queries")
    if (twice := found["qid"].duplicated()).any():
        raise DataError(f"{name}: the query {found.loc[twice, 'qid'].iloc[0]!r} appears twice")
    return found


def read_qrels(name: str, *, split: str | None = None) -> pd.DataFrame:
    """Read judgements.

    Args:
        name: A file in TREC's format (qid, 0, docno, label), a directory in the form of :class:`CollectionFiles` or with a file
            whose name begins with ``qrels`` (and ``qrels.SPLIT``), or an ir_datasets id or PyTerrier dataset.
        split: Split of a directory, or variant of a dataset's judgements.

    Returns:
        A frame of ``qid``, ``docno`` and ``label``.

    Raises:
        DataError: There are no judgements of this name, or a line cannot be read.
    """
    path = _path(name, "judgements")
    if (file := _file_in(path, "qrels", split)) is not None:
        path = file
    if path.is_dir():
        return CollectionFiles(path).qrels(split or "test")
    if path.exists():
        found = read_trec_qrels(path)
        if not len(found):
            raise DataError(f"{name} contains no judgements")
        return found
    return _from_dataset(name, split, "qrels")[["qid", "docno", "label"]].astype({"qid": str, "docno": str})


def _path(name: str, what: str) -> Path:
    if not name:  # as a path, the current directory
        raise DataError(f"the name of the {what} is empty: give a path, or the name of a dataset")
    return Path(name)


def _file_in(directory: Path, kind: str, split: str | None) -> Path | None:
    """Return the file of topics or judgements of a directory without ``docs.jsonl``; None for other paths.

    Raises:
        DataError: There is no such file, or more than one.
    """
    if not directory.is_dir() or any((directory / name).is_file() for name in ("docs.jsonl", "docs.jsonl.gz")):
        return None
    start = f"{kind}.{split}" if split else kind
    found = sorted(file for file in directory.iterdir() if file.is_file() and file.name.startswith(start))
    if len(found) != 1:
        names = f"{len(found)}: {', '.join(file.name for file in found)}" if found else "none"
        raise DataError(
            f"{directory} must contain one file whose name begins with {start}, found {names}; name the file instead"
        )
    return found[0]


def _rows(file: Path, field: str | None) -> Iterator[dict[str, Any]]:
    for number, row in read_rows(file, ("qid", "query"), _read_trec):
        where = f"{file}, line {number}"
        identifier = next((name for name in _IDENTIFIERS if type(row.get(name)) in (str, int) and row[name] != ""), None)
        if identifier is None:
            raise DataError(f"{where}: the query has none of {', '.join(_IDENTIFIERS[:4])}, only {', '.join(row)[:200]}")
        query: dict[str, Any] = {"qid": _valid(str(row[identifier]), f"{where}: the qid")}
        vector = next((row[name] for name in QUERY_VECTOR_FIELDS if isinstance(row.get(name), Mapping)), None)
        text = field or next((name for name in _TEXTS if isinstance(row.get(name), str)), None)
        if vector is not None:
            query["query_toks"] = vector
        if vector is None or text is not None:
            if text is None or not isinstance(row.get(text), str):
                others = ", ".join(key for key, value in row.items() if isinstance(value, str) and key != identifier)
                raise DataError(
                    f"{where}: the query {query['qid']} has no text {text or 'query'!r}; its texts are: {others or 'none'}"
                )
            query["query"] = _valid(row[text], f"{where}: the query {query['qid']}")
        yield query


def _valid(text: str, what: str) -> str:
    """Return a text that UTF-8 can encode; frames of pandas refuse others without naming them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} contains a lone surrogate, which UTF-8 cannot encode: remove it") from error
    return text


def _read_trec(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number of a topic's first line, fields) from a file of TREC topics, in SGML or XML."""
    text = "".join(line for _, line in read_lines(file))
    if re.match(r"\s*<(\?xml|topics|queries)\b", text):
        yield from _read_xml(text, file)
        return
    for topic in re.finditer(r"<top>(.*?)</top>", text, re.DOTALL | re.IGNORECASE):
        fields = {
            _TREC_TAGS.get(tag.lower(), tag.lower()): " ".join(_TREC_LABELS.sub("", value, count=1).split())
            for tag, value in re.findall(r"<(\w+)[^>]*>([^<]*)", topic[1])
        }
        yield text.count("\n", 0, topic.start()) + 1, fields


def _read_xml(text: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        topics = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{file}: not valid XML ({error})") from error
    for number, topic in enumerate(topics, start=1):
        yield number, {**topic.attrib, **{part.tag: " ".join("".join(part.itertext()).split()) for part in topic}}


def _dataset_topics(name: str, split: str | None, field: str | None) -> pd.DataFrame:
    topics = _from_dataset(name, split, "topics")
    text = field or next((column for column in _TEXTS if column in topics.columns), None)
    if text not in topics.columns:
        others = ", ".join(column for column in topics.columns if column != "qid")
        raise DataError(f"the topics of {name} have no field {text or 'query'!r}; they have {others}: name one")
    return pd.DataFrame({"qid": topics["qid"].astype(str), "query": topics[text]})


def _from_dataset(name: str, variant: str | None, what: str) -> pd.DataFrame:
    dataset = get_dataset(name, f"irds:{name}")
    if dataset is None:
        raise DataError(f"there is no file, ir_datasets id or PyTerrier dataset {name!r}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # PyTerrier prints the names of the fields
            found: pd.DataFrame = getattr(dataset, f"get_{what}")(*([variant] if variant else []))
    except (NotImplementedError, AssertionError, KeyError, ValueError) as error:
        detail = f" ({error})" if str(error) else ""
        raise DataError(f"the dataset {name} has no {what}{f' of the split {variant}' if variant else ''}{detail}") from error
    return found
