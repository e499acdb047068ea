"""Stopping a run within seconds of SIGTERM or SIGINT, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds that a run has to stop by itself, less than the ten after which batch systems kill; our choice (not measured).
_PATIENCE = 8.0


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raise SystemExit(143) at SIGTERM and KeyboardInterrupt at SIGINT; end the process if it has not stopped in time.

    Python runs signal handlers between two bytecode instructions, so a long computation would delay them. Ending the process is
    safe if files are written under temporary names. It never happens after the run, or at a SIGINT that the host program
    handles itself. Only for the main thread.
    """
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    watched = {signal.SIGTERM, signal.SIGINT} if interrupts else {signal.SIGTERM}
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGTERM, _terminate)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    stopped, deciding = threading.Event(), threading.Lock()
    threading.Thread(target=_watch, args=(reading, watched, stopped, deciding), daemon=True).start()
    try:
        yield
    finally:
        with deciding:
            stopped.set()
        signal.set_wakeup_fd(previous)
        signal.signal(signal.SIGTERM, before)
        os.close(writing)


def _terminate(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _watch(descriptor: int, watched: Container[int], stopped: threading.Event, deciding: threading.Lock) -> None:
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while content := pipe.read(1):
            if content[0] in watched and not stopped.wait(_PATIENCE):
                with deciding:  # the run may just have stopped
                    if not stopped.is_set():
                        os._exit(128 + content[0])


class StopRequest:
    """Notes that the process was asked to end, so that the run can be saved first.

    Attributes:
        number: Number of the signal; 0 before a signal.
    """

    def __init__(self) -> None:
        self.number = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM instead of ending at once, if this is the main thread; Python allows handlers in no other."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
