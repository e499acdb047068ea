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
    caller stops early, what is under way ends before this does.

    Args:
        items: Of any number; few of them are held at a time. A single one is worked on in the caller's thread.
        stages: Each takes what the one before returned, one item at a time.
    """
    items = iter(items)
    head = list(islice(items, 2))
    if len(head) < 2:
        yield from (reduce(lambda value, stage: stage(value), stages, item) for item in head)
        return
    workers = [ThreadPoolExecutor(1, thread_name_prefix=f"csplade-stage-{number}") for number in range(len(stages))]
    under_way: deque[Future[Any]] = deque()
    try:
        for item in chain(head, items):
            future: Future[Any] = Future()
            future.set_result(item)
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


def _after(earlier: Future[Any], stage: Callable[[Any], Any]) -> Any:
    return stage(earlier.result())
