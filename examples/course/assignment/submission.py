"""Your solution: replace each `raise NotImplementedError`. README.md describes the tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyterrier as pt


def encode(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Task 1: turn the logits of a batch of texts into sparse vectors.

    Args:
        logits: float array [texts, positions, terms].
        mask: bool array [texts, positions]: True for tokens, False for padding. Each text has a token.

    Returns:
        float array [texts, terms]: log(1 + ReLU(maximum of the logits over the positions of tokens)).
    """
    raise NotImplementedError


def quantise(weights: np.ndarray, scale: float) -> np.ndarray:
    """Task 2: turn weights into impacts. Multiply by the scale, and round to the nearest integer, halves up.

    Returns:
        int array of the same shape.
    """
    raise NotImplementedError


def choose_scale(documents: np.ndarray, queries: np.ndarray, scales: list[float]) -> float:
    """Task 3: choose the smallest scale that changes at most 5 % of the ten best documents.

    Args:
        documents: float weights [documents, terms].
        queries: float weights [queries, terms].
        scales: Candidates, in any order.

    Returns:
        The smallest scale with which, on average over the queries, at least 95 % of the ten documents with the highest dot
        product of query weights and impacts are also the ten documents with the highest dot product of query weights and
        document weights. If there is no such scale, the largest scale. Among documents with equal scores, the lower number
        comes first.
    """
    raise NotImplementedError


def prune(vector: dict[str, int], k: int) -> dict[str, int]:
    """Task 4: keep the k terms of a document with the largest impacts; among equal impacts, the first terms in the alphabet."""
    raise NotImplementedError


def build_index(documents: list[dict[str, int]]) -> dict[str, list[tuple[int, int]]]:
    """Task 5: make an inverted index.

    Args:
        documents: Term to impact for each document. The number of a document is its position in the list, from 0.

    Returns:
        Term to postings (number of the document, impact), in ascending order of the numbers.
    """
    raise NotImplementedError


def search(index: dict[str, list[tuple[int, int]]], query: dict[str, float], k: int) -> list[tuple[int, float]]:
    """Task 6: return the k documents with the highest dot products, best first, as (number, score).

    Documents without a term of the query are not returned. Among documents with equal scores, the lower number comes first.
    Read only the postings of the query's terms.
    """
    raise NotImplementedError


def reciprocal_rank_fusion(rankings: list[list[str]]) -> list[str]:
    """Task 7: fuse rankings of docnos, best first: a document's score is the sum of 1 / (60 + rank), with ranks from 1.

    Documents with equal scores are in alphabetical order.
    """
    raise NotImplementedError


def systems(corpus: pd.DataFrame, directory: str) -> dict[str, pt.Transformer]:
    """Task 8: index a corpus, and return the PyTerrier pipelines "BM25", "CSPLADE" and "hybrid".

    Each pipeline takes a frame with qid and query, and returns at most 20 documents for each query. "CSPLADE" uses
    csplade-tiny. "hybrid" fuses the other two pipelines, and must not rank like one of them alone.

    Args:
        corpus: A frame with docno and text.
        directory: The absolute path of an empty directory for your indexes.
    """
    raise NotImplementedError
