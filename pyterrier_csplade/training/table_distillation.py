"""Distillation of a query table whose weights follow from the model's input embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyterrier as pt
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import cosine_similarity, softplus

from pyterrier_csplade.model.csplade import CSPLADE
from pyterrier_csplade.queries.table import QueryTable, teach

# Queries in a batch, learning rate of Adam, and weight of the squared offsets; our choice (not measured). The first two are the
# values of smol-splade's static table.
_BATCH, _RATE, _DECAY = 32, 1e-3, 1e-3


def distil_table(model: CSPLADE, queries: Sequence[str], *, steps: int, seed: int = 0, verbose: bool = True) -> QueryTable:
    """Make a table without expansion from the model's input embeddings E. The weight of token t is softplus(a E_t + b + d_t).

    The projection a and b (Li-LSR, arXiv 2505.01452, and V-SPLADE, arXiv 2605.30917) also give weights to tokens that occur in
    no query; the offset d_t of a token fits the remaining difference. The loss is 1 - cosine of the table's and the model's
    vector of a query.

    Args:
        model: The model that encoded the documents.
        queries: Queries that resemble the future queries.
        steps: Optimizer steps.
        seed: Seed of the batches.
        verbose: Whether to show progress.

    Raises:
        DataError: A query is not a string, or the model gives most queries no terms.
    """
    tokens, vectors = teach(model, queries, counts=False, verbose=verbose)
    rows = model.backbone.columns
    embeddings = model.backbone.model.get_input_embeddings().weight.detach()[rows].float().cpu()
    weights = distil_weights(tokens, vectors, embeddings, steps=steps, seed=seed, verbose=verbose)
    training = {"filling": {"kind": "distil", "steps": steps, "seed": seed}, "queries": tokens.shape[0]}
    return QueryTable.from_weights(model, weights, training=training)


def distil_weights(
    tokens: csr_matrix, vectors: csr_matrix, embeddings: Tensor, *, steps: int, seed: int = 0, verbose: bool = False
) -> np.ndarray:
    """Fit the weights of :func:`distil_table`.

    Args:
        tokens: Tokens of queries, [queries, terms].
        vectors: The model's vectors of the same queries, [queries, terms].
        embeddings: E, [terms, width].
        steps: Optimizer steps.
        seed: Seed of the batches.
        verbose: Whether to show progress.

    Returns:
        float32 [terms], scaled so that the squared error of the queries' vectors is smallest, which changes no ranking.
    """
    generator = np.random.default_rng(seed)
    scaled = embeddings / embeddings.std().clamp(min=1e-12)  # so that the learning rate suits any model
    projection = torch.zeros(embeddings.shape[1], requires_grad=True)
    bias, offsets = torch.zeros(1, requires_grad=True), torch.zeros(len(embeddings), requires_grad=True)
    optimizer = torch.optim.Adam([projection, bias, offsets], lr=_RATE)
    useful = np.flatnonzero((np.diff(tokens.indptr) > 0) & (np.diff(vectors.indptr) > 0))
    for _ in pt.tqdm(range(steps), desc="Distilling the table", unit="step", disable=not verbose):
        batch = generator.choice(useful, min(_BATCH, len(useful)), replace=False)
        present, target = (torch.from_numpy(matrix[batch].toarray()) for matrix in (tokens, vectors))
        made = present * softplus(scaled @ projection + bias + offsets)
        loss = 1 - cosine_similarity(made, target).mean() + _DECAY * offsets.square().sum() / len(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    weights = softplus(scaled @ projection + bias + offsets).detach().numpy()
    made = tokens.multiply(weights).tocsr()
    return (weights * (made.multiply(vectors).sum() / made.multiply(made).sum())).astype(np.float32)
