"""The compiled loops of block-max pruning: the bounds of groups of blocks, and the search in groups."""

from __future__ import annotations

import numpy as np

from ._kernels import compiled

# Groups whose bound, times this, reaches the worst of the best are scored whole: so many of their blocks would have to be
# scored that the bounds of blocks do not pay (ours, measured).
_WHOLE = 0.6

# Arrays that go together; see the arguments of search_groups.
Arrays = tuple[np.ndarray, ...]


@compiled
def bound_groups(
    terms: np.ndarray,
    weights: np.ndarray,
    steps: np.ndarray,
    group_starts: np.ndarray,
    groups: np.ndarray,
    maxima: np.ndarray,
    entries: np.ndarray,
    bounds: np.ndarray,
) -> None:
    """Add up the largest score that a document of each group may have.

    Args:
        terms: Numbers of the query's terms.
        weights: Their weights.
        steps: As in :class:`._blocks.BlockLists`, like the next three.
        group_starts: As there.
        groups: As there.
        maxima: ``group_maxima`` as there.
        entries: int32 [terms of the query, groups], to be filled with the place of a group in the side lists of a term, counted
            from the first one of the term; -1 where the term is in no document of the group.
        bounds: float64 [groups], to be filled.
    """
    entries[:] = -1
    bounds[:] = 0.0
    for i in range(len(terms)):
        weight, step, start = weights[i], np.int64(steps[terms[i]]), group_starts[terms[i]]
        for entry in range(start, group_starts[terms[i] + 1]):
            bounds[groups[entry]] += weight * (step * maxima[entry])
            entries[i, groups[entry]] = entry - start


@compiled
def search_groups(
    candidates: np.ndarray,
    bounds: np.ndarray,
    alpha: float,
    at_least: float,
    max_postings: int,
    sizes: tuple[int, int, int],
    query: tuple[np.ndarray, np.ndarray, np.ndarray],
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    sides: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    order: np.ndarray,
    heap: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[int, int]:
    """Search groups, the one of the largest bound first, until none can hold a better document.

    Args:
        candidates: Numbers of the groups, in the order of the search.
        bounds: float64 [candidates]: their bounds.
        alpha: Factor of the bounds.
        at_least: A score that k documents reach.
        max_postings: Scored postings after which to stop.
        sizes: Documents of a block, documents of a group, documents of the index.
        query: Numbers of the terms, their weights, and ``entries`` of :func:`bound_groups`.
        lists: Where the list of each term starts, documents, impacts.
        sides: Of :class:`._blocks.BlockLists`: steps, group_starts, group_postings, group_blocks, block_starts, blocks, maxima,
            lengths.
        order: int32: place of each document in the order of indexing; empty where it has not changed.
        heap: Scores and documents of the best so far, the worst at the root, and int64 [1] how many there are; changed.

    Returns:
        How many groups were searched or are not needed, and how many postings were scored.
    """
    block_size, group_size, documents = sizes
    block_bounds, scores = np.empty(group_size // block_size), np.empty(group_size)
    scored = 0
    for c in range(len(candidates)):
        least = max(at_least, heap[0][0]) if heap[2][0] == len(heap[0]) else at_least
        if alpha * bounds[c] < least:
            return len(candidates), scored
        if scored >= max_postings:
            return c, scored
        first = candidates[c] * group_size
        scores[:] = 0.0
        if least <= _WHOLE * alpha * bounds[c]:
            scored += _score_group(candidates[c], first, query, lists, sides, scores)
        else:
            _bound_blocks(candidates[c], query, sides, block_bounds)
            scored += _score_blocks(candidates[c], first, alpha, least, query, lists, sides, block_bounds, scores)
        for d in range(min(group_size, documents - first)):
            if scores[d] >= least and scores[d] > 0:
                offer(heap, scores[d], order[first + d] if len(order) else first + d)
    return len(candidates), scored


@compiled
def _bound_blocks(group: int, query: Arrays, sides: Arrays, bounds: np.ndarray) -> None:
    terms, weights, entries = query
    steps, group_starts, _, group_blocks, block_starts, blocks, maxima, _ = sides
    bounds[:] = 0.0
    for i in range(len(terms)):
        if entries[i, group] >= 0:
            entry, weight, step = group_starts[terms[i]] + entries[i, group], weights[i], np.int64(steps[terms[i]])
            start = block_starts[terms[i]] + np.int64(group_blocks[entry])
            for j in range(start, _end(entry, terms[i], group_starts, group_blocks, block_starts)):
                bounds[blocks[j]] += weight * (step * maxima[j])


@compiled
def _score_group(group: int, first: int, query: Arrays, lists: Arrays, sides: Arrays, scores: np.ndarray) -> int:
    """Score all documents of a group; return how many postings they have."""
    terms, weights, entries = query
    starts, docids, impacts = lists
    _, group_starts, group_postings, _, _, _, _, _ = sides
    scored = 0
    for i in range(len(terms)):
        if entries[i, group] >= 0:
            entry, weight = group_starts[terms[i]] + entries[i, group], weights[i]
            start, end = starts[terms[i]] + np.int64(group_postings[entry]), starts[terms[i] + 1]
            if entry + 1 < group_starts[terms[i] + 1]:
                end = starts[terms[i]] + np.int64(group_postings[entry + 1])
            for p in range(start, end):
                scores[docids[p] - first] += weight * impacts[p]
            scored += end - start
    return scored


@compiled
def _score_blocks(
    group: int,
    first: int,
    alpha: float,
    least: float,
    query: Arrays,
    lists: Arrays,
    sides: Arrays,
    bounds: np.ndarray,
    scores: np.ndarray,
) -> int:
    """Score the documents of a group in blocks that may hold a score of at least ``least``."""
    terms, weights, entries = query
    starts, docids, impacts = lists
    _, group_starts, group_postings, group_blocks, block_starts, blocks, _, lengths = sides
    scored = 0
    for i in range(len(terms)):
        if entries[i, group] >= 0:
            entry, weight = group_starts[terms[i]] + entries[i, group], weights[i]
            posting = starts[terms[i]] + np.int64(group_postings[entry])
            start = block_starts[terms[i]] + np.int64(group_blocks[entry])
            for j in range(start, _end(entry, terms[i], group_starts, group_blocks, block_starts)):
                after = posting + np.int64(lengths[j]) + 1
                if alpha * bounds[blocks[j]] >= least:
                    for p in range(posting, after):
                        scores[docids[p] - first] += weight * impacts[p]
                    scored += after - posting
                posting = after
    return scored


@compiled
def _end(entry: int, term: int, group_starts: np.ndarray, group_blocks: np.ndarray, block_starts: np.ndarray) -> int:
    """Return the place after the last block of a group in the side list of a term."""
    if entry + 1 == group_starts[term + 1]:
        return block_starts[term + 1]
    return block_starts[term] + np.int64(group_blocks[entry + 1])


@compiled
def offer(heap: tuple[np.ndarray, np.ndarray, np.ndarray], score: float, docid: int) -> None:
    """Put a document among the best, if it is one of them: a larger score is better, of equal ones the first document."""
    scores, docids, count = heap
    at = count[0]
    if at < len(scores):
        count[0] += 1
        while at > 0 and _worse(score, docid, scores[(at - 1) // 2], docids[(at - 1) // 2]):
            scores[at], docids[at] = scores[(at - 1) // 2], docids[(at - 1) // 2]
            at = (at - 1) // 2
    elif _worse(scores[0], docids[0], score, docid):
        at = 0
        while 2 * at + 1 < len(scores):
            child = 2 * at + 1
            if child + 1 < len(scores) and _worse(scores[child + 1], docids[child + 1], scores[child], docids[child]):
                child += 1
            if not _worse(scores[child], docids[child], score, docid):
                break
            scores[at], docids[at] = scores[child], docids[child]
            at = child
    else:
        return
    scores[at], docids[at] = score, docid


@compiled
def _worse(score: float, docid: int, other_score: float, other_docid: int) -> bool:
    return score < other_score or (score == other_score and docid > other_docid)
