"""Stages in background threads: everything comes out once, in order, errors where they belong, and nothing is left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyterrier_csplade.model import Behind, pipelined


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


@pytest.mark.parametrize("position", range(6))
def test_an_error_of_the_input_comes_after_the_results_before_it(position: int) -> None:
    def failing() -> Iterator[int]:
        yield from range(position)
        raise ValueError("input")

    found = []
    with pytest.raises(ValueError, match="input"):
        for item in pipelined(failing(), lambda x: x):
            found.append(item)
    assert found == list(range(position))
    assert not stage_threads()


def test_an_interruption_of_reading_waits_for_nothing_more() -> None:
    def interrupted() -> Iterator[int]:
        yield from range(5)
        raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):
        for item in pipelined(interrupted(), lambda x: x):
            found.append(item)
    assert found == [0, 1, 2]
    assert not stage_threads()


# ------------------------------------------------------------------------------------------------------ work behind


def test_work_behind_overlaps_with_its_maker() -> None:
    together = threading.Barrier(2, timeout=30)
    done = []

    def work(item: int) -> None:
        together.wait()
        done.append(item)

    with Behind(work) as behind:
        for item in range(3):
            behind.put(item)
            assert item not in done  # it waits for the maker
            together.wait()
    assert done == [0, 1, 2]


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_work_behind_raises_at_the_maker_and_does_no_more(failing: int) -> None:
    done = []

    def work(item: int) -> None:
        if item == failing:
            raise OSError("disk full")
        done.append(item)

    with pytest.raises(OSError, match="disk full"), Behind(work) as behind:
        for item in range(4):
            behind.put(item)
    assert done == list(range(failing))


def test_an_error_of_the_maker_waits_for_the_work_behind() -> None:
    done = []

    def work(item: int) -> None:
        time.sleep(0.1)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), Behind(work) as behind:
        behind.put(0)
        raise KeyboardInterrupt
    assert done == [0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("csplade-behind")]
