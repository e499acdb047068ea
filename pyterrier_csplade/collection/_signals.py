"""Stopping in time: SIGTERM and SIGINT end a run within seconds, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

# Seconds that a run has to stop by itself; less than the ten after which batch systems kill. Ours.
_PATIENCE = 8.0


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raise SystemExit(143) at SIGTERM and KeyboardInterrupt at SIGINT; end the process if it has not stopped in time.

    Python runs its handlers between two of its instructions, so a long computation would delay them. Ending the process is safe
    for what writes files under temporary names only. For the main thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGTERM, _terminate)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    stopped = threading.Event()
    threading.Thread(target=_watch, args=(reading, stopped), daemon=True).start()
    try:
        yield
    finally:
        stopped.set()
        signal.set_wakeup_fd(previous)
        signal.signal(signal.SIGTERM, before)
        os.close(writing)


def _terminate(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _watch(descriptor: int, stopped: threading.Event) -> None:
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while content := pipe.read(1):
            if content[0] in (signal.SIGTERM, signal.SIGINT) and not stopped.wait(_PATIENCE):
                os._exit(128 + content[0])
