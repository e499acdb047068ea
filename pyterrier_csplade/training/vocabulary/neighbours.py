"""Rows of new words from old words in the same contexts, as in FOCUS (arXiv 2305.14481).

FOCUS uses similarities from fastText. This module uses the truncated singular value decomposition of the positive pointwise
mutual information of neighbouring tokens in the corpus (Levy and Goldberg, 2014), which needs no other library.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import svds
from tokenizers import Tokenizer

from .counts import tokenised
from .rows import Origin, Plan

# Number of tokens to the right that are neighbours, the n-th with weight 1 / n, our choice (not measured); dimensions of the
# space (FOCUS: 100); exponent of the context distribution (Levy, Goldberg and Dagan, 2015); and number of old words in a
# sparsemax, our choice (not measured).
_WINDOW, _DIMENSIONS, _SMOOTHING, _NEAREST = 5, 100, 0.75, 64
_CHUNK = 1024
# Number of tokens to count at once, and smallest sum of weights of a pair that is kept; our choice (not measured).
_BUFFER, _RARE = 2**22, 1.0


def contexts(texts: Iterable[str], tokenizer: Tokenizer, size: int, seed: int) -> np.ndarray:
    """Compute the vectors of tokens, float32 [size, dimensions], of length 1; 0 for tokens without neighbours."""
    counts = csr_matrix((size, size), dtype=np.float32)
    waiting: list[np.ndarray] = []
    gap = np.full(_WINDOW, -1, np.int64)
    for _, encoded in tokenised(texts, tokenizer, "counting neighbours"):
        for ids in encoded:
            waiting += [ids, gap]
        if sum(map(len, waiting)) > _BUFFER:
            counts, waiting = counts + _pairs(np.concatenate(waiting), size), []
    if waiting:
        counts = counts + _pairs(np.concatenate(waiting), size)
    counts = (counts + counts.T).tocoo()
    often = counts.data >= _RARE
    rows, columns, data = counts.row[often], counts.col[often], counts.data[often].astype(np.float64)
    totals = np.bincount(rows, weights=data, minlength=size)
    context = totals**_SMOOTHING / max(1e-12, (totals**_SMOOTHING).sum())
    information = np.maximum(np.log(data / totals[rows] / context[columns]), 0)
    matrix = csr_matrix((information, (rows, columns)), shape=(size, size))
    left, values, _ = svds(matrix, k=min(_DIMENSIONS, size - 1), random_state=seed)
    vectors = left * np.sqrt(values)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, vectors / np.maximum(lengths, 1e-6), 0).astype(np.float32)


def _pairs(stream: np.ndarray, size: int) -> csr_matrix:
    found = csr_matrix((size, size), dtype=np.float32)
    for distance in range(1, _WINDOW + 1):
        first, second = stream[:-distance], stream[distance:]
        both = (first >= 0) & (second >= 0)
        weights = np.full(int(both.sum()), 1 / distance, np.float32)
        found = found + coo_matrix((weights, (first[both], second[both])), shape=(size, size)).tocsr()
    return found


def with_neighbours(plan: Plan, vectors: np.ndarray) -> Plan:
    """Replace composed rows by mixtures of rows that old tokens have, weighted by the sparsemax of their similarities.

    Args:
        plan: The plan with composed rows; rows without neighbours stay.
        vectors: Vectors of the new tokens, from :func:`contexts`.
    """
    known = np.flatnonzero([origin in ("copied", "folded") for origin in plan.origins])
    known = known[np.abs(vectors[known]).sum(1) > 0]
    composed = np.flatnonzero([origin == "composed" for origin in plan.origins])
    composed = composed[np.abs(vectors[composed]).sum(1) > 0]
    if not len(known) or not len(composed):
        return plan
    origins: list[Origin] = list(plan.origins)
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = min(_NEAREST, len(known))
    for start in range(0, len(composed), _CHUNK):
        targets = composed[start : start + _CHUNK]
        similar = vectors[targets] @ vectors[known].T
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        weights = sparsemax(np.take_along_axis(similar, nearest, axis=1))
        rows = np.repeat(targets, count)
        entries.append((rows, known[nearest].ravel(), weights.ravel()))
        for target in targets:
            origins[target] = "neighbours"
    size = len(origins)
    rows, columns, weights = (np.concatenate(parts) for parts in zip(*entries))
    mixture = csr_matrix((weights, (rows, columns)), shape=(size, size)) @ plan.weights
    kept = diags(~np.isin(np.arange(size), composed) * 1.0)
    return Plan((kept @ plan.weights + mixture).tocsr(), origins)


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """Project each row onto the probability simplex (Martins and Astudillo, 2016): like softmax, but most weights are 0."""
    ordered = -np.sort(-scores, axis=1)
    ranks = np.arange(1, scores.shape[1] + 1)
    sums = ordered.cumsum(1)
    support = (1 + ranks * ordered > sums).sum(1, keepdims=True)
    threshold = (np.take_along_axis(sums, support - 1, axis=1) - 1) / support
    return np.maximum(scores - threshold, 0)
