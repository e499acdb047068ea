"""The compiled loop of exhaustive search."""

from __future__ import annotations

import numpy as np

from .common import add_up_to, compiled

#: Number of documents whose scores are added up together: 65,536 doubles fit a core's second-level cache.
WINDOW = 2**16
#: Number of scores that are compared with the threshold together.
CHUNK = 64
# The same as an unsigned number, so that numba does not check whether an index counts from the end and vectorises comparisons.
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
    """Score all postings of some terms, in windows of documents; return the number of documents found.

    Args:
        lists: Start of each term's list, documents, impacts.
        terms: Numbers of the terms.
        weights: Their weights.
        documents: Number of documents in the index.
        k: Number of documents to return, at most ``documents``.
        scores: float64, working memory for a window; its length is a multiple of ``CHUNK``.
        best: int64 and float64, at least k + ``CHUNK``: filled with the k best documents (among equal ones, the first), sorted
            by number, and their scores.
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
        count, threshold = _keep_best(best[0], best[1], count, k)
    return count


@compiled
def _exceeded(scores: np.ndarray, k: int) -> float:
    """Return a score that at least k of the scores exceed, close to the largest such score; 0 if there are too few scores.

    The scores are divided into at least 2k groups. Each of the k groups with the largest maxima has a score that reaches the
    smallest of these maxima.
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
    """Append the documents of a window whose score is above a threshold; return the number of documents and the threshold.

    The window starts at document ``first``. When there is no space left, only the k best are kept, and the threshold rises.
    """
    docids, kept = best
    for chunk in range(np.uint64(0), np.uint64(len(scores)), _CHUNK):
        above = 0
        for i in range(chunk, chunk + _CHUNK):
            above += scores[i] > threshold
        if above > 0:
            if count + CHUNK > len(docids):
                count, threshold = _keep_best(docids, kept, count, k)
            place = np.uint64(count)
            for i in range(chunk, chunk + _CHUNK):
                docids[place], kept[place] = first + np.int64(i), scores[i]
                place += np.uint64(scores[i] > threshold)  # a branch would often be mispredicted
            count = np.int64(place)
    return count, threshold


@compiled
def _keep_best(docids: np.ndarray, scores: np.ndarray, count: int, k: int) -> tuple[int, float]:
    """Keep the k largest of the first ``count`` scores without sorting them; among equal scores, the first.

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
