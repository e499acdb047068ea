"""Rows of contrastive training: a query, its relevant passages and its hard negatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.vectors.checks import check_texts

from .fields import shown

# Number of bad rows that a message names, and number after which reading stops, because the whole file seems to have another
# format; our choice (not measured).
_NAMED = 3
_MOST = 1000


@dataclass(frozen=True)
class TrainingRow:
    """A query and its passages.

    Attributes:
        query: Text of the query.
        positives: Texts of relevant passages, at least one.
        negatives: Texts of hard negatives, any number.
        scores: Teacher's scores of the positives and then of the negatives; None without a teacher.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    scores: list[float] | None = None


def passage_text(passage: dict[str, Any]) -> str:
    """Return a passage's title and text, joined by a space unless the text begins with the title."""
    title, text = passage.get("title") or "", passage["text"]
    return text if not title or text.startswith(title) else f"{title} {text}"


def checked_row(
    query: Any, positives: list[Any], negatives: list[Any], where: str, scores: list[float] | None = None
) -> TrainingRow:
    """Return a row after checking its texts.

    Raises:
        DataError: There is no positive, or a text is blank, not a string, or not valid Unicode; the message begins with
            ``where``.
    """
    if not positives:
        raise DataError(f"{where}: the query has no positive passage")
    values = [query, *positives, *negatives]
    names = [f"{where}: the query"] + [f"{where}: a passage"] * (len(values) - 1)
    for value, name in zip(values, names):
        if not isinstance(value, str):
            raise DataError(f"{name}: expected text, found {shown(value)}")
    texts = check_texts(values, names)
    for text, name in zip(texts, names):
        if not text.strip():
            raise DataError(f"{name} is empty")
    return TrainingRow(texts[0], texts[1 : 1 + len(positives)], texts[1 + len(positives) :], scores)


class RowErrors:
    """Collects the errors of rows for one message.

    Attributes:
        allowed: Number of bad rows that may be left out with a warning.
        good: Number of good rows so far.
        bad: Number of bad rows so far.
    """

    def __init__(self, allowed: int = 0) -> None:
        self.allowed = allowed
        self.good = 0
        self.bad = 0
        self._messages: list[str] = []

    def attempt(self, make: Callable[[], TrainingRow]) -> TrainingRow | None:
        """Make a row; record an error and return None.

        Raises:
            DataError: There are too many errors to continue.
        """
        try:
            row = make()
        except DataError as error:
            self.bad += 1
            if len(self._messages) < _NAMED:
                self._messages.append(str(error))
            if self.bad >= max(_MOST, self.allowed + 1):
                self.finish()
            return None
        self.good += 1
        return row

    def finish(self) -> None:
        """Report the bad rows at the end of the data.

        Raises:
            DataError: More rows than allowed are bad.
        """
        if not self.bad:
            return
        message = "; ".join(self._messages)
        if self.bad > 1:
            more = f", the first {_NAMED}" if self.bad > _NAMED else ""
            message = f"{self.bad:,} of the first {self.good + self.bad:,} rows cannot be used{more}: {message}"
        if self.bad > self.allowed:
            raise DataError(f"{message} (correct the data, or allow {self.bad:,} bad rows with max_bad_rows)")
        warn(f"left out, as max_bad_rows={self.allowed} allows: {message}")
