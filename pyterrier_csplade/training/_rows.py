"""Rows of contrastive training: a query, its relevant passages and its hard negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._jsonl import parse_object, read_lines
from pyterrier_csplade._texts import check_texts

from ._row_errors import RowErrors


@dataclass(frozen=True)
class TrainingRow:
    """A query with passages.

    Attributes:
        query: Text of the query.
        positives: Texts of relevant passages, at least one.
        negatives: Texts of hard negatives, any number.
        scores: A teacher's scores of the positives, then of the negatives; None without a teacher.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    scores: list[float] | None = None


def read_rows(data: str | list[str], *, max_bad_rows: int = 0) -> Iterator[TrainingRow]:
    """Yield training rows.

    Args:
        data: ``.jsonl`` or ``.jsonl.gz`` files, directories of a collection with ``train.triples.jsonl``, or the name of a
            PyTerrier dataset (``irds:`` ids included).
        max_bad_rows: Rows that may be unusable: they are left out, with a warning that names and counts them.

    Raises:
        DataError: More rows than allowed cannot be used; the message counts them and names file and line, or the query. Or a
            source has none.
    """
    errors, empty = RowErrors(max_bad_rows), []
    for source in [data] if isinstance(data, str) else data:
        rows = _read_source(source, errors)
        if (first := next(rows, None)) is None:
            empty.append(source)
        else:
            yield first
            yield from rows
    errors.finish()
    if empty:
        raise DataError(f"{empty[0]} has no rows")


def _read_source(source: str, errors: RowErrors) -> Iterator[TrainingRow]:
    if source.endswith((".jsonl", ".jsonl.gz")):
        for number, line in read_lines(source):
            row = errors.attempt(partial(_parsed_row, line, f"{source}, line {number}"))
            if row is not None:
                yield row
    elif Path(source).is_dir():
        from ._directory_rows import read_directory_rows

        yield from read_directory_rows(source, errors)
    else:
        from ._dataset_rows import read_dataset_rows

        yield from read_dataset_rows(source, errors)


def passage_text(passage: dict[str, Any]) -> str:
    """A passage's title and text, joined by a space unless the text begins with the title."""
    title, text = passage.get("title") or "", passage["text"]
    return text if not title or text.startswith(title) else f"{title} {text}"


def checked_row(
    query: Any, positives: list[Any], negatives: list[Any], where: str, scores: list[float] | None = None
) -> TrainingRow:
    """Make a row, proving that it has a positive and that no text is blank."""
    if not positives:
        raise DataError(f"{where}: the query has no positive passage")
    texts = check_texts([query, *positives, *negatives], _names(where))
    for text, name in zip(texts, _names(where)):
        if not text.strip():
            raise DataError(f"{name} is empty")
    return TrainingRow(texts[0], texts[1 : 1 + len(positives)], texts[1 + len(positives) :], scores)


def _names(where: str) -> Iterator[str]:
    yield f"{where}: the query"
    while True:
        yield f"{where}: a passage"


def _parsed_row(line: str, where: str) -> TrainingRow:
    return _row(parse_object(line, where), where)


def _row(values: dict[str, Any], where: str) -> TrainingRow:
    for key in ("query", "positive_passages"):
        if key not in values:
            raise DataError(f"{where}: {key!r} is missing; expected query, positive_passages and negative_passages")
    positives = _passages(values["positive_passages"], f"{where}: positive_passages")
    negatives = _passages(values.get("negative_passages") or [], f"{where}: negative_passages")
    texts = [[passage_text(passage) for passage in side] for side in (positives, negatives)]
    return checked_row(values["query"], texts[0], texts[1], where, _scores([*positives, *negatives], where))


def _scores(passages: list[dict[str, Any]], where: str) -> list[float] | None:
    """A teacher's scores, if the passages have them."""
    scores = [passage["score"] for passage in passages if passage.get("score") is not None]
    if not scores:
        return None
    if len(scores) < len(passages):
        raise DataError(f"{where}: {len(scores)} of {len(passages)} passages have a score; give all of them one, or none")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise DataError(f"{where}: a score is no finite number: {score!r}")
    return [float(score) for score in scores]


def _passages(values: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(values, list):
        raise DataError(f"{where}: expected a list, found {type(values).__name__}")
    for passage in values:
        if not isinstance(passage, dict) or not isinstance(passage.get("text"), str):
            raise DataError(f"{where}: expected objects with a 'text', found {str(passage)[:60]!r}")
        if not isinstance(passage.get("title") or "", str):
            raise DataError(f"{where}: a title is no text: {passage['title']!r}")
    return values
