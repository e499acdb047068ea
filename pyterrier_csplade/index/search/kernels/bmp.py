"""The compiled loops of block-max pruning: bounds of blocks, and the search in blocks."""

from __future__ import annotations

import numpy as np

from .common import add_up_to, advance, compiled, worse

#: Maximum number of documents that are scored together if their blocks are close: their scores fit a core's cache.
WINDOW = 2**14
# Maximum number of documents whose postings are read without searching for the last one first; our choice (not measured).
_SHORT = 512
#: Number of postings scored in the time of finding a position in a list; our choice (measured: about 40).
JUMP = 40


@compiled
def bound_blocks(
    terms: np.ndarray,
    weights: np.ndarray,
    starts: tuple[np.ndarray, np.ndarray],
    blocks: np.ndarray,
    maxima: np.ndarray,
    bounds: np.ndarray,
) -> None:
    """Compute an upper bound of the scores in each block, and write it to ``bounds``, float32 [blocks].

    ``weights`` (float32) is what one unit of a term's stored maxima adds to a score. The arrays ``starts``, ``blocks`` and
    ``maxima`` are those of ``BlockLists`` in ``blocks.py``; ``starts`` also has the ``block_starts``.
    """
    bounds[:] = 0
    for i in range(len(terms)):
        weight, start, end = weights[i], starts[0][terms[i]], starts[0][terms[i] + 1]
        first = starts[1][terms[i]]
        if starts[1][terms[i] + 1] == first:  # a maximum for each block
            row = maxima[start:end]
            for j in range(len(row)):
                bounds[j] += weight * np.float32(row[j])
        else:
            numbers, row = blocks[first : first + end - start], maxima[start:end]
            for j in range(len(row)):
                bounds[numbers[j]] += weight * np.float32(row[j])


@compiled
def search_blocks(
    blocks: np.ndarray,
    bounds: np.ndarray,
    least: float,
    scale: float,
    sizes: tuple[int, int, int],
    query: tuple[np.ndarray, np.ndarray],
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    sides: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    order: np.ndarray,
    scores: np.ndarray,
    heap: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> int:
    """Score the documents of blocks that may contain one of the best; return the number of postings scored.

    Args:
        blocks: Numbers of blocks, increasing.
        bounds: float32: their bounds.
        least: A score that k documents reach.
        scale: Score of one unit of the bounds.
        sizes: Number of documents in a block, in a group, and in the index.
        query: Numbers of the terms, and their weights.
        lists: Start of each term's list, documents, impacts.
        sides: ``starts``, ``maxima``, ``offset_starts``, ``offsets`` of ``BlockLists`` in ``blocks.py``.
        order: int32: position of each document in the order of indexing; empty if the two orders are the same.
        scores: float64, working memory for the documents that are scored together; at least a block.
        heap: Scores and documents of the best so far, the worst at the root, and int64 [1] their number; changed.
    """
    size, group, documents = sizes
    starts = lists[0][query[0]]
    cursors, postings = starts.copy(), np.sum(lists[0][query[0] + 1] - starts)
    # Gaps of up to this many blocks are scored, too: finding the next position in each list would take longer.
    gap = 1 + JUMP * len(starts) * documents // (max(1, postings) * size)
    scored, at = 0, 0
    while at < len(blocks):
        if len(heap[0]) == heap[2][0]:
            least = max(least, heap[0][0])
        if bounds[at] * scale < least:
            at += 1
            continue
        end, last, base = at + 1, blocks[at], blocks[at] * size
        while end < len(blocks) and blocks[end] - last <= gap and (blocks[end] + 1) * size - base <= len(scores):
            if bounds[end] * scale >= least:
                last = blocks[end]
            end += 1
        limit = min((last + 1) * size, documents)
        scores[: limit - base] = 0.0
        scored += _score(base, limit, last == blocks[at], sizes, query, lists, sides, cursors, scores)
        for b in range(at, end):
            if bounds[b] * scale >= least:
                for d in range(blocks[b] * size, min((blocks[b] + 1) * size, documents)):
                    if scores[d - base] >= least and scores[d - base] > 0:
                        _offer(heap, scores[d - base], order[d] if len(order) else d)
        at = end
    return scored


@compiled
def _score(
    base: int,
    limit: int,
    is_block: bool,
    sizes: tuple[int, int, int],
    query: tuple[np.ndarray, np.ndarray],
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    sides: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    cursors: np.ndarray,
    scores: np.ndarray,
) -> int:
    """Score the documents from ``base`` to before ``limit``; return how many postings they have."""
    terms, weights = query
    list_starts, docids, impacts = lists
    starts, maxima, offset_starts, offsets = sides
    scored = 0
    for i in range(len(terms)):
        term, start = terms[i], cursors[i]
        if offset_starts[term + 1] > offset_starts[term]:
            if is_block and maxima[starts[term] + base // sizes[0]] == 0:
                continue
            start = max(start, list_starts[term] + np.int64(offsets[offset_starts[term] + base // sizes[1]]))
        end, weight = list_starts[term + 1], weights[i]
        start = at = advance(docids, start, end, base)
        if limit - base <= _SHORT:
            while at < end and docids[at] < limit:
                scores[np.uint32(docids[at] - base)] += weight * np.float64(impacts[at])
                at += 1
        else:
            at = add_up_to(docids, impacts, start, end, limit, weight, scores, base)
        scored += at - start
        cursors[i] = at
    return scored


@compiled
def _offer(heap: tuple[np.ndarray, np.ndarray, np.ndarray], score: float, docid: int) -> None:
    """Offer a document to the heap of the best; among equal scores, the first document is better."""
    scores, docids, count = heap
    at = count[0]
    if at < len(scores):
        count[0] += 1
        while at > 0 and worse(score, docid, scores[(at - 1) // 2], docids[(at - 1) // 2]):
            scores[at], docids[at] = scores[(at - 1) // 2], docids[(at - 1) // 2]
            at = (at - 1) // 2
    elif worse(scores[0], docids[0], score, docid):
        at = 0
        while 2 * at + 1 < len(scores):
            child = 2 * at + 1
            if child + 1 < len(scores) and worse(scores[child + 1], docids[child + 1], scores[child], docids[child]):
                child += 1
            if not worse(scores[child], docids[child], score, docid):
                break
            scores[at], docids[at] = scores[child], docids[child]
            at = child
    else:
        return
    scores[at], docids[at] = score, docid
