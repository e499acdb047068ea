"""Overlapping stages of work, each in its own background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from itertools import chain, islice
from typing import Any

from pyterrier_csplade._warnings import for_threads

# Items in progress besides the caller's: one for each of two stages.
_AHEAD = 2


def pipelined(items: Iterable[Any], *stages: Callable[[Any], Any]) -> Iterator[Any]:
    """Pass items through stages in order, and compute the next results while the caller works on one.

    Items are read in the caller's thread. If reading or a stage fails, the error is raised after the results before it. If the
    caller stops early or is interrupted, this function waits for the running stages.

    Args:
        items: Any number of items, of which few are in memory. A single item is processed in the caller's thread.
        stages: Functions of one item; each receives the result of the previous one.
    """
    futures = _read(iter(items))
    first = list(islice(futures, 2))
    if len(first) < 2:
        yield from (reduce(lambda value, stage: stage(value), stages, future.result()) for future in first)
        return
    stages = tuple(map(for_threads, stages))
    workers = [ThreadPoolExecutor(1, thread_name_prefix=f"csplade-stage-{number}") for number in range(len(stages))]
    pending: deque[Future[Any]] = deque()
    try:
        for future in chain(first, futures):
            for stage, worker in zip(stages, workers):
                future = worker.submit(_after, future, stage)
            pending.append(future)
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for worker in workers:
            worker.shutdown(wait=True, cancel_futures=True)


class Behind:
    """A context manager that processes an item in a background thread while the caller makes the next one."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        """Set the function that is called with each item."""
        self._work = for_threads(work)
        self._last: Future[Any] | None = None

    def __enter__(self) -> Behind:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="csplade-behind")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self._worker.shutdown(wait=True)
        if kind is None:
            self.wait()

    def put(self, item: Any) -> None:
        """Wait for the previous item, then start with this one; raise the error of the previous item."""
        self.wait()
        self._last = self._worker.submit(self._work, item)

    def wait(self) -> None:
        """Wait until the last item is done; raise its error."""
        if self._last is not None:
            self._last.result()


def _read(items: Iterator[Any]) -> Iterator[Future[Any]]:
    """Yield items as completed futures. An error while reading is the last future; interruptions are raised immediately."""
    while True:
        future: Future[Any] = Future()
        try:
            future.set_result(next(items))
        except StopIteration:
            return
        except Exception as error:
            future.set_exception(error)
            yield future
            return
        yield future


def _after(earlier: Future[Any], stage: Callable[[Any], Any]) -> Any:
    return stage(earlier.result())
