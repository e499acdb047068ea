"""Files of documents: JSONL, TSV, CSV and Parquet by their suffixes, and TREC files with any other name."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._warnings import warn

from .jsonl import MAX_BYTES, open_bytes, read_byte_lines, read_jsonl, read_lines

#: Names of a document's identifier in files of PyTerrier, ir_datasets, Tevatron, BEIR and Anserini.
IDENTIFIERS = ("docno", "doc_id", "docid", "_id", "id")

_Documents: TypeAlias = Iterator[tuple[int, dict[str, Any]]]

# If the first line of a TSV file has one of these cells, it names the columns.
_HEADERS = {*IDENTIFIERS, "pid", "qid", "query_id", "text", "title", "body", "contents", "passage"}
_FORMATS = {".jsonl": "JSONL", ".tsv": "TSV", ".csv": "CSV", ".parquet": "Parquet"}
_READABLE = "supported are .jsonl, .tsv and .csv (also with .gz), .parquet, and TREC files with any other name"
_COMPRESSIONS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x1f\x8b": "gzip",
    b"\x1f\x9d": "compress",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "lz4",
}
# Number of Parquet rows in memory at once; our choice (not measured).
_BATCH = 1024
_TITLE_TAGS = {"headline", "title", "h3", "h4"}  # as in the SAX parser of ir_datasets


def document_files(path: Path, _above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield a file, or all files below a directory in the order of their names; links are followed.

    Names that begin with a dot are skipped.

    Raises:
        DataError: A path is neither a file nor a directory, such as a broken link, or links form a circle.
    """
    if path.is_dir():
        real = path.resolve()
        if real in _above:
            raise DataError(f"{path} links to a directory above it: remove the link")
        for child in sorted(path.iterdir()):
            if not child.name.startswith("."):
                yield from document_files(child, (*_above, real))
    elif path.is_file():
        yield path
    else:
        raise DataError(f"{path} is not a regular file, and its documents must be read more than once: copy it to a file")


def names_a_format(name: str) -> bool:
    """Return whether a name has the suffix of a known file format."""
    return _suffix(Path(name)) in _FORMATS


def read_documents(file: Path) -> _Documents:
    """Yield (number, document); numbers count lines, or rows in Parquet. TREC documents have ``docno``, ``title`` and ``body``.

    Raises:
        DataError: A document cannot be parsed, or there are no documents; the message names file and line.
    """
    number = 0
    for number, document in read_rows(file, ("docno", "text"), _read_trec):
        yield number, document
    if not number:
        raise _nothing_found(file)


def read_rows(file: Path, columns: tuple[str, str], others: Callable[[Path], _Documents]) -> _Documents:
    """Yield (number, row); numbers count lines, or rows in Parquet.

    Args:
        file: JSONL, TSV, CSV or Parquet by its suffix.
        columns: The columns of a TSV file that does not name them in its first line.
        others: Reads a file with any other name.

    Raises:
        DataError: A row cannot be parsed; the message names file and line.
    """
    readers: dict[str, Callable[[Path], _Documents]] = {
        ".jsonl": read_jsonl,
        ".tsv": partial(_read_tsv, columns=columns),
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    return readers.get(_suffix(file), others)(file)


def count_documents(file: Path) -> int:
    """Count the documents of a file, without parsing them where possible.

    Raises:
        DataError: There are no documents, or the file cannot be read; the message names the file.
    """
    kind = _suffix(file)
    if kind == ".parquet":
        with _parquet(file) as parquet:
            count = int(parquet.metadata.num_rows)
    elif kind in (".tsv", ".csv"):
        return sum(1 for _ in read_documents(file))
    else:
        first = b"" if kind == ".jsonl" else b"<DOC>"
        count = sum(line.startswith(first) for _, line in read_byte_lines(file))
    if not count:
        raise _nothing_found(file)
    return count


def _suffix(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _nothing_found(file: Path) -> DataError:
    """Describe a file without documents: how it was read, what it looks like, and which formats are supported."""
    kind = _FORMATS.get(_suffix(file))
    taken = f"as {kind}" if kind else "as TREC documents, but no line begins with <DOC>"
    return DataError(f"{file} contains no documents: it was read {taken}; {'' if kind else _appearance(file)}{_READABLE}")


def _appearance(file: Path) -> str:
    start = b""
    with suppress(OSError, EOFError, zlib.error), open_bytes(file) as content:
        start = content.read(512)
    for magic, name in _COMPRESSIONS.items():
        if start.startswith(magic):
            return f"it is compressed with {name}: decompress it, or compress it with gzip and end its name in .gz; "
    if start.startswith(b"PAR1"):
        return "it looks like Parquet: end its name in .parquet; "
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is UTF-16: convert it to UTF-8; "
    if start.lstrip()[:1] in (b"{", b"["):
        return "it looks like JSON: write one object per line and end its name in .jsonl; "
    return "" if start.strip() else "it is empty; "


def _read_tsv(file: Path, columns: tuple[str, str]) -> _Documents:
    """Read two columns without quotes, as in MS MARCO; or the dialect of CSV, if the first line names the columns."""
    identifier, text = columns
    for number, line in read_lines(file):
        cells = line.rstrip("\r\n").split("\t")
        if number == 1 and not _HEADERS.isdisjoint(cells):
            yield from _read_csv(file, "\t")
            return
        if len(cells) != 2:
            raise DataError(
                f"{file}, line {number}: expected {identifier} TAB {text}, found {len(cells)} cells: name the columns in the "
                "first line"
            )
        yield number, {identifier: cells[0], text: cells[1]}


def _read_csv(file: Path, delimiter: str = ",") -> _Documents:
    csv.field_size_limit(max(MAX_BYTES, csv.field_size_limit()))
    rows = csv.reader((line for _, line in read_lines(file)), delimiter=delimiter, strict=True)
    try:
        names = next(rows, [])
        if len(set(names)) < len(names):
            raise DataError(f"{file}, line 1: two columns have the same name")
        for row in filter(None, rows):
            if len(row) != len(names):
                raise DataError(f"{file}, line {rows.line_num}: {len(row)} cells for {len(names)} columns ({', '.join(names)})")
            yield rows.line_num, dict(zip(names, row))
    except csv.Error as error:
        raise DataError(f"{file}, line {rows.line_num}: not valid {_FORMATS[_suffix(file)]} ({error})") from error


def _parquet(file: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{file}: reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        return ParquetFile(file)
    except (ValueError, OSError) as error:  # pyarrow's own errors are both
        raise DataError(f"{file}: cannot be read as Parquet ({error})") from error


def _read_parquet(file: Path) -> _Documents:
    number = 0
    with _parquet(file) as parquet:
        try:
            for batch in parquet.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (ValueError, OSError, OverflowError) as error:
            raise DataError(f"{file}, after row {number}: cannot be read as Parquet ({error})") from error


def _read_trec(file: Path) -> _Documents:
    from ir_datasets.formats.trec import CONTENT_TAGS
    from ir_datasets.util.html_parsing import sax_html_parser

    fields = [{"docno"}, _TITLE_TAGS, {tag.lower() for tag in CONTENT_TAGS} - _TITLE_TAGS]
    number, damaged, has_text = 0, 0, False
    for number, raw in _split_trec(file):
        text = raw.decode("utf-8", errors="ignore")
        damaged += len(text.encode()) < len(raw)
        docno, title, body = sax_html_parser(text, fields=fields)
        if not docno:
            raise DataError(f"{file}, line {number}: the document that begins here has no <DOCNO>")
        has_text = has_text or bool(title or body)
        yield number, {"docno": docno, "title": title, "body": body}
    if number and not has_text:
        raise DataError(f"{file}: no document has text in the tags {', '.join(f'<{tag}>' for tag in CONTENT_TAGS)}")
    if damaged:
        warn(f"{file}: bytes that are not UTF-8 were left out of {damaged:,} documents: convert the file")


def _split_trec(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number of the line with <DOC> and the bytes of each document, which includes what precedes <DOC>."""
    lines: list[bytes] = []
    begin = size = 0
    for number, line in read_byte_lines(file):
        if line.startswith(b"<DOC>"):
            if begin:
                break
            begin = number
        lines.append(line)
        size += len(line)
        if size > MAX_BYTES:
            if begin:
                raise DataError(f"{file}, line {begin}: the document has more than {MAX_BYTES:,} bytes, which is the limit")
            raise _nothing_found(file)
        if line.startswith(b"</DOC>"):
            if not begin:
                raise DataError(f"{file}, line {number}: </DOC> without a line that begins with <DOC>: repair the file")
            yield begin, b"".join(lines)
            begin, size, lines = 0, 0, []
    if begin:
        raise DataError(f"{file}, line {begin}: the document that begins here has no line </DOC>: repair the file")
