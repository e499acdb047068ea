"""The compiled loops that build the side lists of block-max pruning."""

from __future__ import annotations

import numpy as np

from .common import compiled


@compiled
def count_blocks(starts: np.ndarray, docids: np.ndarray, size: int, counts: np.ndarray) -> None:
    """Count the blocks of ``size`` documents in which each list has postings."""
    for term in range(len(counts)):
        last, count = -1, 0
        for i in range(starts[term], starts[term + 1]):
            block = docids[i] // size
            count += block != last
            last = block
        counts[term] = count


@compiled
def fill_maxima(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    size: int,
    steps: np.ndarray,
    starts: tuple[np.ndarray, np.ndarray],
    maxima: np.ndarray,
    blocks: np.ndarray,
) -> None:
    """Fill in the largest impact of each term in each block of ``size`` documents.

    ``lists`` are the start of each term's list, documents and impacts. ``steps`` and ``starts`` (the arrays ``starts`` and
    ``block_starts``) belong to :class:`pyterrier_csplade.index.search.blocks.BlockLists`. ``maxima``, zeros at first, and
    ``blocks`` are filled.
    """
    list_starts, docids, impacts = lists
    for term in range(len(steps)):
        step, numbered, at, last = np.int64(steps[term]), starts[1][term], starts[0][term] - 1, np.int64(-1)
        has_numbers = starts[1][term + 1] > numbered
        for i in range(list_starts[term], list_starts[term + 1]):
            block = np.int64(docids[i] // size)
            if has_numbers and block != last:
                blocks[numbered], last = block, block
                numbered += 1
                at += 1
            place = at if has_numbers else starts[0][term] + block
            maxima[place] = max(np.int64(maxima[place]), (np.int64(impacts[i]) + step - 1) // step)


@compiled
def fill_offsets(starts: np.ndarray, docids: np.ndarray, size: int, offset_starts: np.ndarray, offsets: np.ndarray) -> None:
    """Fill in where the postings of each group of ``size`` documents start, for the terms with offsets in ``offset_starts``."""
    for term in range(len(starts) - 1):
        at = starts[term]
        for place in range(offset_starts[term], offset_starts[term + 1]):
            first = (place - offset_starts[term]) * size
            while at < starts[term + 1] and docids[at] < first:
                at += 1
            offsets[place] = at - starts[term]


@compiled
def kth_impacts(starts: np.ndarray, impacts: np.ndarray, k: int, found: np.ndarray) -> None:
    """Fill in the k-th largest impact of each list, 0 where the list is shorter."""
    for term in range(len(found)):
        count = starts[term + 1] - starts[term]
        found[term] = 0 if count < k else np.partition(impacts[starts[term] : starts[term + 1]], count - k)[count - k]


@compiled
def reorder_lists(
    starts: np.ndarray,
    docids: np.ndarray,
    impacts: np.ndarray,
    places: np.ndarray,
    new_docids: np.ndarray,
    new_impacts: np.ndarray,
) -> None:
    """Renumber the documents of all lists by ``places``, the new number of each, so that they increase in each new list."""
    for term in range(len(starts) - 1):
        start, end = starts[term], starts[term + 1]
        numbers = places[docids[start:end]]
        sorting = np.argsort(numbers)
        new_docids[start:end] = numbers[sorting]
        new_impacts[start:end] = impacts[start:end][sorting]
