"""Loops that numba compiles when they are first called; import this module only where they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])

# Compiled code is kept beside this file, or in the user's cache where that cannot be written; threads run at the same time.
compiled: Callable[[Function], Function] = numba.njit(cache=True, nogil=True)


@compiled
def decode(data: np.ndarray, first: int, last: int, docids: np.ndarray, impacts: np.ndarray) -> None:
    """As :func:`pyterrier_csplade.index.terrier.reader.decode_in_python`."""
    position, docid = first, -1
    for i in range(len(docids)):
        length = 0
        while position < last and not data[position >> 3] >> (7 - (position & 7)) & 1:
            position += 1
            length += 1
        gap = 0
        for _ in range(length + 1):
            if position < last:
                gap = gap * 2 + (data[position >> 3] >> (7 - (position & 7)) & 1)
            position += 1
        docid += gap
        impact = 1
        while position < last and not data[position >> 3] >> (7 - (position & 7)) & 1:
            position += 1
            impact += 1
        position += 1
        docids[i] = docid
        impacts[i] = impact


@compiled
def advance(docids: np.ndarray, cursor: int, end: int, docid: int) -> int:
    """Return the first place, from ``cursor`` on, of a document that is not before ``docid``; ``end`` if there is none."""
    step = 1
    while cursor + step < end and docids[cursor + step] < docid:
        cursor += step
        step *= 2
    high = min(cursor + step, end)
    while cursor < high:
        middle = (cursor + high) // 2
        if docids[middle] < docid:
            cursor = middle + 1
        else:
            high = middle
    return cursor


@compiled
def add_up_to(
    docids: np.ndarray, impacts: np.ndarray, cursor: int, end: int, limit: int, weight: float, scores: np.ndarray, base: int
) -> int:
    """Add the postings of a list before a document to scores.

    Args:
        docids: Documents of all lists.
        impacts: Their impacts.
        cursor: The first posting.
        end: The end of the list.
        limit: The document.
        weight: The term's weight.
        scores: float64: scores of the documents from ``base`` on.
        base: The first document.

    Returns:
        The place of the first posting that was not added.
    """
    if cursor == end or docids[cursor] >= limit:
        return cursor
    stop = advance(docids, cursor, end, limit)
    some_docids, some_impacts = docids[cursor:stop], impacts[cursor:stop]
    for i in range(len(some_docids)):
        # Of an unsigned number numba does not ask whether it counts from the end.
        scores[np.uint32(some_docids[i] - base)] += weight * np.float64(some_impacts[i])
    return stop
