"""The compiled loop of exhaustive search."""

from __future__ import annotations

import numpy as np

from .common import add_up_to, compiled

#: Documents whose scores are added up together: 65,536 doubles stay in a core's second-level cache.
WINDOW = 2**16
#: Scores that are compared with the threshold together.
CHUNK = 64
# The same, unsigned: of such numbers numba does not ask whether they count from the end, and compares several at a time.
_CHUNK = np.uint64(CHUNK)


@compiled
def exhaustive(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    terms: np.ndarray,
    weights: np.ndarray,
    documents: int,
    k: int,
    scores: np.ndarray,
    best: tuple[np.ndarray, np.ndarray],
) -> int:
    """Score all postings of some terms, in windows of documents.

    Args:
        lists: Where the list of each term starts, documents, impacts.
        terms: Numbers of the terms.
        weights: Their weights.
        documents: Documents of the index.
        k: Documents to return, at most ``documents``.
        scores: float64, to be used: as many as a window has, a multiple of ``CHUNK``.
        best: int64 and float64, at least k + ``CHUNK``: filled with the k best documents, of equal ones the first, in
            their order, and their scores.

    Returns:
        How many documents there are.
    """
    starts, docids, impacts = lists
    cursors, ends = starts[terms], starts[terms + 1]
    count, threshold = 0, 0.0
    for first in range(0, documents, len(scores)):
        limit = min(first + len(scores), documents)
        scores[:] = 0.0
        for i in range(len(terms)):
            cursors[i] = add_up_to(docids, impacts, cursors[i], ends[i], limit, weights[i], scores, first)
        if first == 0:
            threshold = _exceeded(scores[:limit], k)
        count, threshold = _collect(scores, first, threshold, k, best, count)
    if count > k:
        count, threshold = keep_best(best[0], best[1], count, k)
    return count


@compiled
def _exceeded(scores: np.ndarray, k: int) -> float:
    """Return a score that at least k of these exceed, nearly the largest there is; 0 where they are too few to tell.

    The scores are dealt out to at least twice as many groups. The k groups of the largest maxima have a score each that reaches
    the least of these maxima.
    """
    groups = _CHUNK
    while groups < 2 * k:
        groups *= np.uint64(2)
    if groups > len(scores):
        return 0.0
    maxima = scores[:groups].copy()
    for first in range(groups, np.uint64(len(scores)) - groups + np.uint64(1), groups):
        for group in range(groups):
            score = scores[first + group]
            maxima[group] = score if score > maxima[group] else maxima[group]
    least = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
    return np.nextafter(least, 0.0)


@compiled
def _collect(
    scores: np.ndarray, first: int, threshold: float, k: int, best: tuple[np.ndarray, np.ndarray], count: int
) -> tuple[int, float]:
    """Append the documents of a window, from ``first`` on, whose score is above a threshold; return how many there are, and it.

    When there is no room for more, the k best are kept, and the threshold rises.
    """
    docids, kept = best
    for chunk in range(np.uint64(0), np.uint64(len(scores)), _CHUNK):
        above = 0
        for i in range(chunk, chunk + _CHUNK):
            above += scores[i] > threshold
        if above > 0:
            if count + CHUNK > len(docids):
                count, threshold = keep_best(docids, kept, count, k)
            place = np.uint64(count)
            for i in range(chunk, chunk + _CHUNK):
                docids[place], kept[place] = first + np.int64(i), scores[i]
                place += np.uint64(scores[i] > threshold)  # without a branch, which processors would often foresee wrongly
            count = np.int64(place)
    return count, threshold


@compiled
def keep_best(docids: np.ndarray, scores: np.ndarray, count: int, k: int) -> tuple[int, float]:
    """Keep the k largest of the first ``count`` scores, of equal ones the first, in their order.

    Returns:
        k, and the smallest of the scores that are kept.
    """
    least = np.partition(scores[:count], count - k)[count - k]
    equal = k - np.sum(scores[:count] > least)
    kept = 0
    for i in range(count):
        if scores[i] > least or (scores[i] == least and equal > 0):
            equal -= scores[i] == least
            docids[kept], scores[kept] = docids[i], scores[i]
            kept += 1
    return kept, least


@compiled
def add_list(docids: np.ndarray, impacts: np.ndarray, weight: float, scores: np.ndarray) -> None:
    """Add a term's part to the scores of all documents."""
    for i in range(len(docids)):
        scores[docids[i]] += weight * impacts[i]
