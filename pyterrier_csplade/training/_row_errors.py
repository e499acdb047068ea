"""Counting of training rows that cannot be used: each is named, none disappears silently."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from pyterrier_csplade._errors import DataError

T = TypeVar("T")

# Bad rows that a message names, and those after which reading stops, because the whole file is of another form. Ours.
_NAMED = 3
_MOST = 1000


class RowErrors:
    """Collects the errors of single rows, so that one message tells of all.

    Attributes:
        allowed: Bad rows that may be left out, with a warning.
        good: Rows that were read.
        bad: Rows that could not be used.
    """

    def __init__(self, allowed: int = 0) -> None:
        self.allowed = allowed
        self.good = 0
        self.bad = 0
        self._messages: list[str] = []

    def attempt(self, make: Callable[[], T]) -> T | None:
        """Make a row; None after an error, which is noted.

        Raises:
            DataError: There were too many errors to go on.
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
        """Say what was wrong, at the end of the data.

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
            raise DataError(f"{message} (mend the data, or allow {self.bad:,} of them with max_bad_rows)")
        warnings.warn(f"left out, as max_bad_rows={self.allowed} allows: {message}", stacklevel=2)
