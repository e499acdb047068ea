"""The compiled loops of recursive graph bisection."""

from __future__ import annotations

import numpy as np

from .common import compiled

# Rounds of swaps at a level, as published.
_ROUNDS = 20


@compiled
def heaviest_terms(starts: np.ndarray, docids: np.ndarray, impacts: np.ndarray, terms: np.ndarray, weights: np.ndarray) -> None:
    """Find the heaviest terms of each document.

    Args:
        starts: Start of each term's list.
        docids: Documents.
        impacts: Impacts.
        terms: int32 [documents, number] of -1; filled with terms.
        weights: [documents, number] zeros; filled with the impacts of the terms, as a heap with the smallest at the root.
    """
    number = terms.shape[1]
    for term in range(len(starts) - 1):
        for i in range(starts[term], starts[term + 1]):
            heap, names, impact = weights[docids[i]], terms[docids[i]], impacts[i]
            if impact <= heap[0]:
                continue
            at = 0
            while 2 * at + 1 < number:
                child = 2 * at + 1
                if child + 1 < number and heap[child + 1] < heap[child]:
                    child += 1
                if heap[child] >= impact:
                    break
                heap[at], names[at] = heap[child], names[child]
                at = child
            heap[at], names[at] = impact, term


@compiled
def bisect_part(order: np.ndarray, terms: np.ndarray, logarithms: np.ndarray, degrees: np.ndarray, gains: np.ndarray) -> None:
    """Order the documents of one part so that documents within each half share terms.

    Documents change sides in pairs while that lowers the estimated cost of the gaps in posting lists, which is
    ``degree * log2(size / (degree + 1))`` for each term and side.

    Args:
        order: int32 [documents of the part]; changed in place.
        terms: int32 [documents of the index, number]: terms of each document, padded with -1.
        logarithms: float32: log2(i) at position i, from 1 to the number of documents + 1.
        degrees: int64 [2, terms] zeros, working memory; zeros again at the end.
        gains: float32 [2, terms] of NaN, working memory; NaN again at the end.
    """
    half = len(order) // 2
    documents = np.empty(len(order), np.float32)
    for _ in range(_ROUNDS):
        _degrees_of(order, half, terms, degrees, 1)
        for i in range(len(order)):
            side, gain = int(i >= half), np.float32(0)
            for term in terms[order[i]]:
                if term >= 0:
                    if np.isnan(gains[side, term]):
                        gains[side, term] = _gain(
                            degrees[side, term], degrees[1 - side, term], half, len(order) - half, side, logarithms
                        )
                    gain += gains[side, term]
            documents[i] = gain
        _degrees_of(order, half, terms, degrees, -1)
        for i in range(len(order)):
            for term in terms[order[i]]:
                if term >= 0:
                    gains[:, term] = np.nan
        left, right = np.argsort(-documents[:half]), np.argsort(-documents[half:]) + half
        swapped = 0
        while swapped < half and documents[left[swapped]] + documents[right[swapped]] > 0:
            first, second = left[swapped], right[swapped]
            order[first], order[second] = order[second], order[first]
            swapped += 1
        if swapped == 0:
            break


@compiled
def _degrees_of(order: np.ndarray, half: int, terms: np.ndarray, degrees: np.ndarray, step: int) -> None:
    """Count the documents that contain each term on each side of a part."""
    for i in range(len(order)):
        for term in terms[order[i]]:
            if term >= 0:
                degrees[int(i >= half), term] += step


@compiled
def _gain(own: int, other: int, left: int, right: int, side: int, logarithms: np.ndarray) -> float:
    """Return the decrease in a term's cost if a document that contains it changes sides."""
    size, other_size = (left, right) if side == 0 else (right, left)
    before = own * (logarithms[size] - logarithms[own + 1]) + other * (logarithms[other_size] - logarithms[other + 1])
    after = (own - 1) * (logarithms[size] - logarithms[own]) + (other + 1) * (logarithms[other_size] - logarithms[other + 2])
    return before - after
