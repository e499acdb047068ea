"""Lexical grounding: the share of a text's vector that falls on the text's own tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Grounding:
    """Lexical grounding of texts; each figure is a mean over the texts, from 0 to 1.

    A text's own tokens are the distinct index terms among its tokens, without the prefix. Texts without own tokens are left
    out; an empty vector counts as 0.

    Attributes:
        top: Share of own tokens among a text's k heaviest terms, where k is the number of its own tokens. If a vector has fewer
            than k terms, the missing ones count as terms that are not own. Equal weights are ranked by column.
        weight: Share of the vector's weight that is on own tokens.
        live: Share of the own tokens whose weight is above 0.
    """

    top: float
    weight: float
    live: float

    def figures(self, side: str) -> dict[str, float]:
        """Return the figures by their names in training curves and reports; ``side`` is "query" or "document"."""
        names = {"top": "grounding", "weight": "own_weight", "live": "own_live"}
        return {f"{names[name]}_{side}": value for name, value in asdict(self).items()}


def lexical_grounding(vectors: csr_matrix, own: csr_matrix) -> Grounding:
    """Compute the lexical grounding of texts.

    If it falls during training, the model uses the vocabulary as an anonymous latent space ("semantic deviation", Nguyen et
    al., 2024, arXiv 2402.17535): retrieval on the training data may improve while terms lose their meaning.

    Args:
        vectors: Non-negative weights or impacts, [texts, terms].
        own: Entries that are not 0 where a term is one of a text's own tokens, [texts, terms].

    Returns:
        The means over the texts that have own tokens; 0 if there are none.

    Example:
        >>> import numpy as np
        >>> from scipy.sparse import csr_matrix
        >>> vectors = csr_matrix(np.array([[3.0, 0.0, 1.0, 2.0]]))
        >>> lexical_grounding(vectors, csr_matrix(np.array([[1, 1, 0, 0]])))
        Grounding(top=0.5, weight=0.5, live=0.5)
    """
    if vectors.shape != own.shape:
        raise ValueError(f"expected own tokens of the shape of the vectors, {vectors.shape}, found {own.shape}")
    is_own = (own != 0).astype(np.float64)
    weights = csr_matrix(vectors, dtype=np.float64)
    counts = np.diff(is_own.indptr)
    has_own = counts > 0
    if not has_own.any():
        return Grounding(0.0, 0.0, 0.0)
    own_weights = weights.multiply(is_own).tocsr()
    total = np.asarray(weights.sum(axis=1)).ravel()
    weight = np.asarray(own_weights.sum(axis=1)).ravel() / np.where(total > 0, total, 1)
    live = np.asarray((own_weights > 0).sum(axis=1)).ravel() / np.maximum(counts, 1)
    top = np.asarray(_heaviest(weights, counts).multiply(is_own).sum(axis=1)).ravel() / np.maximum(counts, 1)
    return Grounding(*(float(figure[has_own].mean()) for figure in (top, weight, live)))


def _heaviest(weights: csr_matrix, counts: np.ndarray) -> csr_matrix:
    """Mark the ``counts[row]`` heaviest terms of each row with 1; equal weights are ranked by column."""
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    order = np.lexsort((weights.indices, -weights.data, rows))
    rank = np.arange(len(rows)) - weights.indptr[rows]
    kept = order[(rank < counts[rows]) & (weights.data[order] > 0)]
    return csr_matrix((np.ones(len(kept)), (rows[kept], weights.indices[kept])), shape=weights.shape)
