"""Signals that ask a run to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Notes that the process was asked to end, so that the run can save itself first.

    Attributes:
        number: Of the signal; 0 while there was none.
    """

    def __init__(self) -> None:
        self.number = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM instead of ending at once, where this thread may (Python lets only the main one)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
