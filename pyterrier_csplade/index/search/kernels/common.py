"""Loops that several algorithms share. numba compiles them at the first call, so import this module only where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])

# numba stores compiled code next to this file, or in the user's cache if the folder is read-only. Threads run it in parallel.
compiled: Callable[[Function], Function] = numba.njit(cache=True, nogil=True)


@compiled
def decode(data: np.ndarray, first: int, last: int, docids: np.ndarray, impacts: np.ndarray) -> None:
    """Decode a posting list; see :func:`pyterrier_csplade.index.terrier.reader.decode_in_python`."""
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
    """Return the first position from ``cursor`` whose document is ``docid`` or a later one, or ``end``."""
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
    """Add the postings of a list that come before the document ``limit`` to scores; return the next posting's position.

    The postings from ``cursor`` to ``end`` are read. ``scores``, float64, starts with the document ``base``.
    """
    if cursor == end or docids[cursor] >= limit:
        return cursor
    stop = advance(docids, cursor, end, limit)
    some_docids, some_impacts = docids[cursor:stop], impacts[cursor:stop]
    for i in range(len(some_docids)):
        # For an unsigned index, numba does not check whether it counts from the end.
        scores[np.uint32(some_docids[i] - base)] += weight * np.float64(some_impacts[i])
    return stop


@compiled
def worse(score: float, docid: int, other_score: float, other_docid: int) -> bool:
    """Whether a document ranks behind another."""
    return score < other_score or (score == other_score and docid > other_docid)
