"""Stages of work that overlap, each in its own background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from itertools import chain, islice
from typing import Any

from pyterrier_csplade._warnings import for_threads

# Items that are under way besides the one that the caller has: one for each of two stages.
_AHEAD = 2


def pipelined(items: Iterable[Any], *stages: Callable[[Any], Any]) -> Iterator[Any]:
    """Pass items through stages in order; while the caller works on one result, the next ones are computed.

    Items are read in the caller's thread. An error in reading or in a stage is raised here, after the results before it. If
    the caller stops early or is interrupted, this waits for the stages that are running.

    Args:
        items: Any number of items; few are held in memory. A single item is processed in the caller's thread.
        stages: Functions of one item; each takes the result of the one before.
    """
    futures = _read(iter(items))
    head = list(islice(futures, 2))
    if len(head) < 2:
        yield from (reduce(lambda value, stage: stage(value), stages, future.result()) for future in head)
        return
    stages = tuple(map(for_threads, stages))
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
    """Processes an item in a background thread while the next one is made; a context manager."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        """Take the function that is called with each item."""
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
        """Start with an item after the one before it is done; raises the error of that one."""
        self.wait()
        self._last = self._worker.submit(self._work, item)

    def wait(self) -> None:
        """Wait until the last item is done; raises its error."""
        if self._last is not None:
            self._last.result()


def _read(items: Iterator[Any]) -> Iterator[Future[Any]]:
    """Read items as completed futures; an error while reading is the last. Interruptions are raised at once."""
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
