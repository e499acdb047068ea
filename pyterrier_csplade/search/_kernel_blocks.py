"""The compiled loops that build the side lists of block-max pruning."""

from __future__ import annotations

import numpy as np

from ._kernels import compiled


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
def fill_blocks(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    sizes: tuple[int, int],
    steps: np.ndarray,
    starts: tuple[np.ndarray, np.ndarray],
    group_lists: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    block_lists: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Fill the side lists.

    Args:
        lists: Where the list of each term starts, documents, impacts.
        sizes: Documents of a block and of a group.
        steps: As in :class:`._blocks.BlockLists`, like the others.
        starts: ``group_starts`` and ``block_starts``.
        group_lists: ``groups``, ``group_maxima``, ``group_postings``, ``group_blocks``, to be filled.
        block_lists: ``blocks``, ``maxima``, ``lengths``, to be filled.
    """
    list_starts, docids, impacts = lists
    block_size, group_size = sizes
    groups, group_maxima, group_postings, group_blocks = group_lists
    blocks, maxima, lengths = block_lists
    for term in range(len(steps)):
        step = np.int64(steps[term])
        g, b = starts[0][term] - 1, starts[1][term] - 1
        last_group, last_block = -1, -1
        for i in range(list_starts[term], list_starts[term + 1]):
            if docids[i] // block_size != last_block:
                last_block = docids[i] // block_size
                b += 1
                blocks[b], maxima[b], lengths[b] = last_block % (group_size // block_size), 0, 0
                if docids[i] // group_size != last_group:
                    last_group = docids[i] // group_size
                    g += 1
                    groups[g], group_maxima[g] = last_group, 0
                    group_postings[g], group_blocks[g] = i - list_starts[term], b - starts[1][term]
            else:
                lengths[b] += 1
            code = (np.int64(impacts[i]) + step - 1) // step
            maxima[b] = max(np.int64(maxima[b]), code)
            group_maxima[g] = max(np.int64(group_maxima[g]), code)


@compiled
def kth_impacts(starts: np.ndarray, impacts: np.ndarray, k: int, found: np.ndarray) -> None:
    """Fill in the k-th largest impact of each list, 0 where it is shorter."""
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
    """Number documents anew in all lists.

    Args:
        starts: Where the list of each term starts.
        docids: Documents.
        impacts: Impacts.
        places: int32 [documents]: the new number of each.
        new_docids: To be filled, increasing in each list.
        new_impacts: To be filled.
    """
    for term in range(len(starts) - 1):
        start, end = starts[term], starts[term + 1]
        numbers = places[docids[start:end]]
        sorting = np.argsort(numbers)
        new_docids[start:end] = numbers[sorting]
        new_impacts[start:end] = impacts[start:end][sorting]
