"""Measures of pictures in a vocabulary: retrieval, cost, and the two failures that expansion control prevents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

# Number of strongest terms of a picture in the semantic deviation.
_STRONGEST = 10
# Number of queries whose scores are in memory at the same time; our choice (not measured).
_BLOCK = 256


def co_activation(vectors: csr_matrix) -> float:
    """Compute dimension co-activation, ``sum of df^2 / (N * sum of df)`` over the terms; 0 without any posting.

    For an average posting, this is the share of the collection in its posting list; 1 if all vectors have the same terms.
    """
    frequencies = _frequencies(vectors)
    return float(np.square(frequencies).sum() / (vectors.shape[0] * frequencies.sum())) if vectors.nnz else 0.0


def longest_list(vectors: csr_matrix) -> float:
    """Compute the share of vectors that contain the most frequent term."""
    return float(_frequencies(vectors).max(initial=0.0) / max(1, vectors.shape[0]))


def flops(queries: csr_matrix, vectors: csr_matrix) -> float:
    """Compute the mean number of multiplications for a pair, ``sum of df_q * df_d / (N_q * N_d)`` (arXiv 2402.17535)."""
    pairs = max(1, queries.shape[0] * vectors.shape[0])
    return float(_frequencies(queries) @ _frequencies(vectors) / pairs)


def semantic_deviation(vectors: csr_matrix, captions: csr_matrix) -> float:
    """Compute the share of a picture's ten strongest terms that the text model does not have in the vector of its caption.

    Averaged over pictures with a term: 0 if all terms describe the picture, 1 if none does. Of a picture with fewer than ten
    terms, all terms count.

    Args:
        vectors: Vectors of the pictures, [pictures, terms].
        captions: The text model's vectors of the captions, in the same order.
    """
    unknown_shares = []
    for row in range(vectors.shape[0]):
        strongest = _strongest(vectors, row)
        if len(strongest):
            known = captions.indices[captions.indptr[row] : captions.indptr[row + 1]]
            unknown_shares.append(1 - np.isin(strongest, known).mean())
    return float(np.mean(unknown_shares)) if unknown_shares else 0.0


def exact_ratio(queries: csr_matrix, vectors: csr_matrix, own: csr_matrix, relevant: Sequence[int] | np.ndarray) -> float:
    """Compute the share of the scores between queries and their relevant pictures that comes from the queries' own words.

    The rest comes from expansion (the semantic ratio). Queries with a score of 0 are left out.

    Args:
        queries: Vectors of the queries.
        vectors: Vectors of the pictures.
        own: Non-zero where a term is an own word of a query, [queries, terms].
        relevant: The relevant picture of each query.
    """
    products = csr_matrix(queries.multiply(vectors[np.asarray(relevant)]))
    totals = np.asarray(products.sum(axis=1)).ravel()
    exact = np.asarray(products.multiply(own > 0).sum(axis=1)).ravel()
    found = totals > 0
    return float((exact[found] / totals[found]).mean()) if found.any() else 0.0


def relevant_ranks(queries: csr_matrix, vectors: csr_matrix, relevant: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the rank of each query's relevant picture, counted from 1; infinity if its score is 0.

    Of equal scores, the first picture ranks first, as in a search of an index.
    """
    places, transposed = np.asarray(relevant), vectors.T.tocsr()
    blocks = [
        _ranks(np.asarray((queries[start : start + _BLOCK] @ transposed).todense()), places[start : start + _BLOCK])
        for start in range(0, len(places), _BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0)


def retrieval_measures(ranks: np.ndarray) -> dict[str, float]:
    """Compute R@1, R@10, R@100 and RR@10 of queries with one relevant picture each, from its ranks."""
    measures = {f"R@{k}": float((ranks <= k).mean()) for k in (1, 10, 100)}
    return {**measures, "RR@10": float(np.where(ranks <= 10, 1 / ranks, 0.0).mean())}


def _ranks(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    relevant_scores = scores[np.arange(len(scores)), relevant][:, None]
    earlier = np.arange(scores.shape[1]) < relevant[:, None]
    ranks = 1.0 + (scores > relevant_scores).sum(axis=1) + ((scores == relevant_scores) & earlier).sum(axis=1)
    return np.where(relevant_scores[:, 0] > 0, ranks, np.inf)


def _frequencies(vectors: csr_matrix) -> np.ndarray:
    return np.bincount(vectors.indices, minlength=vectors.shape[1]).astype(np.float64)


def _strongest(vectors: csr_matrix, row: int) -> np.ndarray:
    part = slice(vectors.indptr[row], vectors.indptr[row + 1])
    order = np.argsort(-vectors.data[part].astype(np.float64), kind="stable")[:_STRONGEST]
    return vectors.indices[part][order]  # type: ignore[no-any-return]
