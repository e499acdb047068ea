"""Stopping a run within seconds of SIGTERM or SIGINT."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds that a run has to stop by itself; batch systems kill it after ten. Our choice (not measured).
_PATIENCE = 8.0
# Seconds within which two SIGINT count as one: torchrun passes on a Ctrl-C that its processes have already received from the
# terminal; our choice (not measured).
_ONE_PRESS = 1.0


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raise SystemExit(143) on SIGTERM and KeyboardInterrupt on SIGINT; kill the process if it does not stop in time.

    Python runs signal handlers between two bytecode instructions, so a long computation would delay them. Killing the process
    is safe if files are written under temporary names. It never happens after the run, or on a SIGINT that the host program
    handles itself. Call this in the main thread only.
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
                with deciding:  # the run may have stopped at this moment
                    if not stopped.is_set():
                        os._exit(128 + content[0])


class StopRequest:
    """Records that the process was asked to stop, so that the run can be saved first.

    Attributes:
        number: Number of the first signal; 0 before a signal.
    """

    def __init__(self) -> None:
        self.number = 0
        self._noted = 0.0
        self._notice = ""

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.number and now - self._noted > _ONE_PRESS:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self._noted = number, now
            with contextlib.suppress(OSError, RuntimeError):  # the signal may have interrupted a write to stderr
                sys.stderr.write(self._notice)

    @contextmanager
    def listening(self, notice: str = "") -> Iterator[None]:
        """Record SIGTERM and SIGINT instead of stopping at once; a second SIGINT raises KeyboardInterrupt.

        Outside the main thread, where Python allows no handlers, this does nothing. If the host program handles SIGINT itself,
        only SIGTERM is recorded. ``notice`` is written to stderr on the first signal.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._notice = notice
        noted = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            noted.append(signal.SIGINT)
        before = {number: signal.signal(number, self._note) for number in noted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
