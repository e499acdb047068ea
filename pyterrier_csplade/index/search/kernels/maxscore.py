"""The compiled loop of MaxScore, exact and guided."""

from __future__ import annotations

import numpy as np

from .common import add_up_to, advance, compiled, worse

#: Number of documents that the essential lists score together, as in Lucene's MaxScoreBulkScorer.
WINDOW = 2**12
# A list with fewer postings than this for each document found is read in full; our choice (not measured).
_LOOK_UP = 16


@compiled
def maxscore(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    query: tuple[np.ndarray, np.ndarray, np.ndarray],
    rests: np.ndarray,
    mix: tuple[float, float, float],
    heaps: tuple[np.ndarray, np.ndarray, np.ndarray],
    cursors: np.ndarray,
    window: tuple[np.ndarray, np.ndarray, np.ndarray],
    first: int,
    last: int,
) -> int:
    """Search the documents from ``first`` to before ``last``; return the number of postings that were scored or looked up.

    Args:
        lists: Documents, learned impacts and guide's impacts of all lists, and whether the guide is used (of length 1).
        query: End of each list, and its weights for learned and guide's impacts; the largest global bound first.
        rests: float64 [2, terms + 1]: the most that each term and those after it can add to a global and to a local score.
        mix: Share of the guide in the global, the local and the final score.
        heaps: float64 [3, k] scores and int64 [3, k] documents of the best by global, local and final score, and int64 [3]
            their number; changed.
        cursors: int64 [terms]: the next posting of each list; changed.
        window: float64, float64 and uint32 working memory for the documents that are scored together.
        first: The first document.
        last: The document after the last.
    """
    docids, impacts, guides, guided = lists[0], lists[1], lists[2], lists[3][0]
    ends, weights, guide_weights = query
    learned, guide, found = window
    essential, scored, base = len(ends), 0, first
    while base < last:
        while essential > 0 and rests[0, essential - 1] <= _threshold(heaps, 0):
            essential -= 1
        base = _next(docids, cursors, ends, essential, base, last)
        limit = min(base + len(found), last)
        scored += _add_all(lists, query, cursors, essential, limit, base, learned, guide)
        needed, count = _threshold(heaps, 1), len(found)
        for j in range(len(found)):
            found[j] = j
        for i in range(essential, len(ends)):
            count = _keep(found, count, learned, guide, guided, mix[1], needed - rests[1, i])
            if count == 0:
                break
            start, end = advance(docids, cursors[i], ends[i], base), ends[i]
            # If the window has far more postings than documents found, only the postings of these documents are looked up.
            few = (end - start) * len(found) // (last - base) >= _LOOK_UP * count
            kept = found[:count] if few else found[:0]
            if guided:
                _add_some(docids, guides, start, end, limit, guide_weights[i], guide, base, kept)
            cursors[i] = _add_some(docids, impacts, start, end, limit, weights[i], learned, base, kept)
            scored += count if few else cursors[i] - start
        for c in range(_keep(found, count, learned, guide, guided, mix[1], needed)):
            _offer(heaps, mix, learned[found[c]], guide[found[c]], base + found[c])
        base = limit
    return scored


@compiled
def _add_all(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    query: tuple[np.ndarray, np.ndarray, np.ndarray],
    cursors: np.ndarray,
    number: int,
    limit: int,
    base: int,
    learned: np.ndarray,
    guide: np.ndarray,
) -> int:
    """Set the scores of a window to the sums of its postings in the first lists; return the number of postings."""
    ends, weights, guide_weights = query
    learned[:] = 0.0
    guide[:] = 0.0
    added = 0
    for i in range(number):
        if lists[3][0]:
            add_up_to(lists[0], lists[2], cursors[i], ends[i], limit, guide_weights[i], guide, base)
        cursor = add_up_to(lists[0], lists[1], cursors[i], ends[i], limit, weights[i], learned, base)
        added += cursor - cursors[i]
        cursors[i] = cursor
    return added


@compiled
def _add_some(
    docids: np.ndarray,
    impacts: np.ndarray,
    cursor: int,
    end: int,
    limit: int,
    weight: float,
    scores: np.ndarray,
    base: int,
    kept: np.ndarray,
) -> int:
    """Add the postings of the given documents of a window, or of all if none are given; return the next posting's position."""
    if len(kept) == 0:
        return add_up_to(docids, impacts, cursor, end, limit, weight, scores, base)
    for j in kept:
        cursor = advance(docids, cursor, end, base + j)
        if cursor < end and docids[cursor] == base + j:
            scores[j] += weight * impacts[cursor]
    return cursor


@compiled
def _keep(
    found: np.ndarray, count: int, learned: np.ndarray, guide: np.ndarray, guided: bool, share: float, needed: float
) -> int:
    """Keep the documents whose local score is above ``needed``; return how many."""
    kept = np.uint64(0)
    for c in range(np.uint64(count)):
        j = found[c]
        score = share * guide[j] + (1 - share) * learned[j] if guided else learned[j]
        found[kept] = j  # a branch would often be mispredicted
        kept += np.uint64((learned[j] > 0.0) & (score > needed))
    return np.int64(kept)


@compiled
def _offer(
    heaps: tuple[np.ndarray, np.ndarray, np.ndarray], mix: tuple[float, float, float], learned: float, guide: float, docid: int
) -> None:
    """Offer a document to the heaps of the final, the local and the global score; heaps with equal shares are one."""
    _push(heaps, 2, _mixed(learned, guide, mix[2]), docid)
    for heap in range(2):
        if mix[heap] != mix[2]:
            _push(heaps, heap, _mixed(learned, guide, mix[heap]), docid)
        else:
            heaps[2][heap], heaps[0][heap, 0] = heaps[2][2], heaps[0][2, 0]


@compiled
def _mixed(learned: float, guide: float, share: float) -> float:
    return learned if share == 0.0 else share * guide + (1 - share) * learned


@compiled
def _threshold(heaps: tuple[np.ndarray, np.ndarray, np.ndarray], heap: int) -> float:
    """Return the score that a document must exceed to enter a heap: 0 while the heap is not full."""
    return heaps[0][heap, 0] if heaps[2][heap] == heaps[0].shape[1] else 0.0


@compiled
def _next(docids: np.ndarray, cursors: np.ndarray, ends: np.ndarray, essential: int, base: int, last: int) -> int:
    """Return the first document of the essential lists that is not before ``base``."""
    found = last
    for i in range(essential):
        if cursors[i] < ends[i]:
            found = min(found, docids[cursors[i]])
    return max(base, found)


@compiled
def _push(heaps: tuple[np.ndarray, np.ndarray, np.ndarray], heap: int, score: float, docid: int) -> None:
    """Offer a document to a heap with the worst at the root; among equal scores, the later document is worse."""
    scores, docids, sizes = heaps[0][heap], heaps[1][heap], heaps[2]
    size = sizes[heap]
    if size < len(scores):
        place = size
        sizes[heap] += 1
        while place > 0:
            parent = (place - 1) // 2
            if not worse(score, docid, scores[parent], docids[parent]):
                break
            scores[place], docids[place] = scores[parent], docids[parent]
            place = parent
    elif score > scores[0]:
        place = 0
        while 2 * place + 1 < size:
            child = 2 * place + 1
            if child + 1 < size and worse(scores[child + 1], docids[child + 1], scores[child], docids[child]):
                child += 1
            if not worse(scores[child], docids[child], score, docid):
                break
            scores[place], docids[place] = scores[child], docids[child]
            place = child
    else:
        return
    scores[place], docids[place] = score, docid
