"""Stages in background threads: everything comes out once, in order, errors where they belong, and nothing is left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyterrier_csplade._pipelining import pipelined


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("csplade-stage")]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 50])
def test_results_come_in_order(number: int) -> None:
    assert list(pipelined(range(number), lambda x: x + 1, lambda x: x * 10)) == [(x + 1) * 10 for x in range(number)]
    assert not stage_threads()


def test_stages_and_caller_work_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=30)  # broken, and thereby an error, unless all three meet

    def meet(item: int) -> int:
        if item == 2:
            together.wait()
        return item

    def meet_earlier(item: int) -> int:
        if item == 1:
            together.wait()
        return item

    for item in pipelined(range(4), meet, meet_earlier):
        if item == 0:
            together.wait()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_comes_after_the_results_before_it(failing: int) -> None:
    def fail(item: int) -> int:
        if item == 3:
            raise ValueError("item 3")
        return item

    stages: list[Any] = [lambda x: x, lambda x: x]
    stages[failing] = fail
    found = []
    with pytest.raises(ValueError, match="item 3"):
        for item in pipelined(range(10), *stages):
            found.append(item)
    assert found == [0, 1, 2]
    assert not stage_threads()


def test_an_error_of_the_input_comes_through() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(pipelined(items(), lambda x: x))
    assert not stage_threads()


def test_little_is_read_ahead_and_stopping_early_leaves_nothing_running() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    def slow(item: int) -> int:
        time.sleep(0.01)
        return item

    results = pipelined(items(), slow, slow)
    assert next(results) == 0
    assert len(read) == 3
    results.close()  # type: ignore[attr-defined]
    assert not stage_threads()
    assert len(read) == 3
