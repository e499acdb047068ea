"""Stages of work that overlap: each in a background thread of its own, with few items under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from itertools import chain, islice
from typing import Any

# Items that are under way besides the one that the caller has: one for each of two stages.
_AHEAD = 2


def pipelined(items: Iterable[Any], *stages: Callable[[Any], Any]) -> Iterator[Any]:
    """Pass items through stages, in order: while the caller works on one result, the next ones are being made.

    Items are read in the caller's thread. What reading or a stage raises is raised here, after the results before it; when the
    caller stops early, or is interrupted, what is under way ends before this does.

    Args:
        items: Of any number; few of them are held at a time. A single one is worked on in the caller's thread.
        stages: Each takes what the one before returned, one item at a time.
    """
    futures = _read(iter(items))
    head = list(islice(futures, 2))
    if len(head) < 2:
        yield from (reduce(lambda value, stage: stage(value), stages, future.result()) for future in head)
        return
    workers = [ThreadPoolExecutor(1, thread_name_prefix=f"csplade-stage-{number}") for number in range(len(stages))]
    under_way: deque[Future[Any]] = deque()
    try:
        for future in chain(head, futures):
            for stage, worker in zip(stages, workers):
                future = worker.submit(_after, future, stage)
            under_way.append(future)
            if len(under_way) > _AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for worker in workers:
            worker.shutdown(wait=True, cancel_futures=True)


class Behind:
    """Does a piece of work in a background thread while its maker makes the next one; to be used in a ``with`` statement."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        """Take what is to be done with each item."""
        self._work = work
        self._last: Future[Any] | None = None

    def __enter__(self) -> Behind:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="csplade-behind")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self._worker.shutdown(wait=True)
        if kind is None:
            self.wait()

    def put(self, item: Any) -> None:
        """Begin with an item, when that before it is done; raises what that raised."""
        self.wait()
        self._last = self._worker.submit(self._work, item)

    def wait(self) -> None:
        """Wait until the last item is done; raises what that raised."""
        if self._last is not None:
            self._last.result()


def _read(items: Iterator[Any]) -> Iterator[Future[Any]]:
    """Read items as results that are there; an error of theirs is the last. Interruptions come through at once."""
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
