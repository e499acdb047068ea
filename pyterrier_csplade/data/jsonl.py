"""Files with one JSON object per line, and other files of lines."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pyterrier_csplade._errors import DataError

#: Maximum size in bytes of a line, a CSV cell or a TREC document, which bounds the memory for bad input; our choice (not
#: measured).
MAX_BYTES = 16 * 2**20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSONL file, which is gzip-compressed if its name ends in ``.gz``.

    Raises:
        DataError: The file is missing, or a line is not a JSON object; the message names file and line.
    """
    for number, line in read_lines(path):
        yield number, parse_object(line, f"{path}, line {number}")


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file, which is gzip-compressed if its name ends in ``.gz``.

    A byte order mark is left out. Lines end at line feeds only: ``str.splitlines`` would also split at U+2028 within a text.

    Raises:
        DataError: The file is missing or cannot be read to its end, or a line is not UTF-8 or longer than ``MAX_BYTES``.
    """
    for number, line in read_byte_lines(path):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:  # decoded line by line, so that the message can name the line
            raise DataError(f"{path}, line {number}: not valid UTF-8 ({error})") from error


def read_byte_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line) as ``read_lines`` does, as bytes in any encoding."""
    path, number = Path(path), 0
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with open_bytes(path) as file:
            while line := file.readline(MAX_BYTES + 1):
                number += 1
                if len(line) > MAX_BYTES:
                    raise DataError(f"{path}, line {number}: longer than {MAX_BYTES:,} bytes, which is the limit")
                yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}, after line {number}: cannot be read ({error})") from error


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Parse a line of a JSONL file.

    Raises:
        DataError: It is not a JSON object.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # includes integers with thousands of digits
        raise DataError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, and decompress it if its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]
