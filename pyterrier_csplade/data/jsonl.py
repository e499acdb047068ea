"""Files of one JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSONL file, gzip-compressed if its name ends in ``.gz``.

    Raises:
        DataError: The file is missing, or a line is no JSON object; the message names file and line.
    """
    for number, line in read_lines(path):
        yield number, parse_object(line, f"{path}, line {number}")


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file, gzip-compressed if its name ends in ``.gz``; a byte order mark is left out.

    Raises:
        DataError: The file is missing, cannot be read to its end, or a line is no UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        yield from _numbered(lines, path)


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Parse a line of a JSONL file.

    Raises:
        DataError: It is no JSON object.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}")
    return row


def _numbered(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:  # decoded line by line, so that the line is known
        raise DataError(f"{path}, line {number}: not valid UTF-8 ({error})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}, after line {number}: cannot be read on ({error})") from error
