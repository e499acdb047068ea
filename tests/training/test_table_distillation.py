"""Tables whose weights are a function of the model's input embeddings."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix

from inside.training import distil_weights


def test_weights_of_the_form_that_is_fitted_are_found() -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(40, 2))
    weights = np.log1p(np.exp(embeddings @ np.array([1.5, -1.0]) + 0.5))
    present = (generator.random((200, 40)) < 0.2) & (np.arange(40) < 30)  # the last 10 are in no query
    tokens = csr_matrix(present.astype(np.float32))
    found = distil_weights(
        tokens, csr_matrix(present * weights, dtype=np.float32), torch.tensor(embeddings).float(), steps=1500
    )
    assert np.median(np.abs(found[:30] / weights[:30] - 1)) < 0.05  # the scale is that of the smallest squared error
    assert np.corrcoef(found[30:], weights[30:])[0, 1] > 0.95  # tokens that no query has follow from their embeddings


def test_the_seed_decides() -> None:
    generator = np.random.default_rng(0)
    tokens = csr_matrix((generator.random((90, 8)) < 0.5).astype(np.float32))
    vectors = csr_matrix(generator.random((90, 8), dtype=np.float32))
    embeddings = torch.arange(24.0).reshape(8, 3)
    first, again, other = (distil_weights(tokens, vectors, embeddings, steps=80, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
