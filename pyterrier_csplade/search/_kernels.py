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
    """As :func:`._terrier.decode_in_python`."""
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
