"""Documents, and a function for their vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

DOCUMENTS = {
    "d1": "An inverted index maps every term to its postings.",
    "d2": "Sparse retrieval with language models expands a text by related terms.",
    "d3": "The maximum over positions of the logits is taken before the activation.",
    "d4": "dogs and cats",
    "d5": "A causal mask hides what comes later from every position.",
    "d6": "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 検索 🙂",
    "d7": "Cats sleep for most of the day, dogs do not.",
    "d8": "BM25 weighs how often a term stands in a text and how rare it is.",
}


def dense(matrix: Any) -> np.ndarray:
    """Convert a sparse matrix to a float64 array."""
    return np.asarray(matrix.todense(), dtype=np.float64)
