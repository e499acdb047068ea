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
    """Task 2: turn weights into impacts: multiply by the scale, and round to the nearest integer, halves up.

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
        product of query weights and impacts are those with the highest dot product of query weights and document weights; the
        largest scale if there is none. Equal scores: the document with the lower number comes first.
    """
    raise NotImplementedError


def prune(vector: dict[str, int], k: int) -> dict[str, int]:
    """Task 4: keep the k terms of a document with the largest impacts; of equal ones, those that are first in the alphabet."""
    raise NotImplementedError


def build_index(documents: list[dict[str, int]]) -> dict[str, list[tuple[int, int]]]:
    """Task 5: make an inverted index.

    Args:
        documents: Term to impact; the number of a document is its place in the list, from 0.

    Returns:
        Term to postings (number of the document, impact), by ascending number.
    """
    raise NotImplementedError


def search(index: dict[str, list[tuple[int, int]]], query: dict[str, float], k: int) -> list[tuple[int, float]]:
    """Task 6: return the k documents with the highest dot products, best first, as (number, score).

    Documents without a term of the query are not returned. Equal scores: the lower number comes first. Read no postings but
    those of the query's terms.
    """
    raise NotImplementedError


def reciprocal_rank_fusion(rankings: list[list[str]]) -> list[str]:
    """Task 7: fuse rankings of docnos, best first: a document's score is the sum of 1 / (60 + rank), with ranks from 1.

    Equal scores: the order of the alphabet.
    """
    raise NotImplementedError


def systems(corpus: pd.DataFrame, directory: str) -> dict[str, pt.Transformer]:
    """Task 8: index a corpus, and return the PyTerrier pipelines "BM25", "CSPLADE" and "hybrid".

    Each takes a frame of qid and query, and returns at most 20 documents for each query. "CSPLADE" is csplade-tiny; "hybrid"
    fuses the two others, and must not rank as one of them does.

    Args:
        corpus: docno and text.
        directory: An empty directory for your indexes; an absolute path.
    """
    raise NotImplementedError
