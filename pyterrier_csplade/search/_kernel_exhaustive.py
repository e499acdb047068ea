"""The compiled loop of exhaustive search."""

from __future__ import annotations

import numpy as np

from ._kernels import add_up_to, compiled

# Documents whose scores are added up together: 65,536 doubles stay in a core's second-level cache.
_WINDOW = 2**16
# Scores that are compared with the threshold together.
_CHUNK = 64


@compiled
def exhaustive(
    starts: np.ndarray,
    docids: np.ndarray,
    impacts: np.ndarray,
    terms: np.ndarray,
    weights: np.ndarray,
    documents: int,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Score all postings of some terms, in windows of documents.

    Args:
        starts: As in :class:`._postings.Postings`.
        docids: As there.
        impacts: As there.
        terms: Numbers of the terms.
        weights: Their weights.
        documents: Documents of the index.
        k: Documents to return, at most ``documents``.

    Returns:
        Documents in their order, and their scores: the k best, of equal ones the first.
    """
    cursors, ends = starts[terms], starts[terms + 1]
    # A small collection needs no whole window, and to fill one with zeros takes as long as the search.
    scores = np.zeros(min(_WINDOW, -(-documents // _CHUNK) * _CHUNK))
    capacity = max(4 * k, 4096)
    best_docids, best_scores = np.empty(capacity, np.int64), np.empty(capacity)
    count, threshold = 0, 0.0
    for first in range(0, documents, _WINDOW):
        limit = min(first + _WINDOW, documents)
        for i in range(len(terms)):
            cursors[i] = add_up_to(docids, impacts, cursors[i], ends[i], limit, weights[i], scores, first)
        for chunk in range(0, limit - first, _CHUNK):
            found = False
            for j in range(chunk, chunk + _CHUNK):
                found |= scores[j] > threshold
            if not found:
                continue
            for j in range(chunk, chunk + _CHUNK):
                if scores[j] > threshold:
                    if count == capacity:
                        count, threshold = keep_best(best_docids, best_scores, count, k)
                    if scores[j] > threshold:
                        best_docids[count] = first + j
                        best_scores[count] = scores[j]
                        count += 1
        if limit < documents:
            scores[:] = 0.0
    if count > k:
        count, threshold = keep_best(best_docids, best_scores, count, k)
    return best_docids[:count], best_scores[:count]


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
