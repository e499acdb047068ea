"""A vocabulary of 300,000 terms, the largest of "Corpus-Specific Vocabularies" (arXiv 2401.06703), in every algorithm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import ImpactIndex, MatrixVectors

TERMS, DOCUMENTS, PER_DOCUMENT = 300_000, 3_000, 120


@pytest.mark.slow
def test_three_hundred_thousand_terms(tmp_path: Path) -> None:
    """Every term occurs: 100 terms of a document are its own, 20 are among 2,000 frequent ones."""
    rng = np.random.default_rng(5)
    own = rng.permutation(TERMS).reshape(DOCUMENTS, -1)
    frequent = rng.permutation(TERMS)[:2_000]
    rows = [np.unique(np.concatenate([row, rng.choice(frequent, 20, replace=False)])) for row in own]
    columns, indptr = np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    matrix = csr_matrix((rng.integers(1, 400, len(columns)), columns, indptr), shape=(DOCUMENTS, TERMS))
    vocabulary = [f"Ġt{number}" for number in range(TERMS)]
    docnos = [f"d{number}" for number in range(DOCUMENTS)]
    index = ImpactIndex(tmp_path / "index").index_vectors(MatrixVectors(docnos, matrix, vocabulary))
    assert index.collection_statistics().getNumberOfUniqueTerms() == TERMS
    chosen = [np.unique(np.concatenate([rng.choice(frequent, 25), rng.integers(0, TERMS, 5)])) for _ in range(20)]
    weights = [rng.random(len(terms)).astype(np.float32) for terms in chosen]
    queries = pd.DataFrame({
        "qid": [str(number) for number in range(len(chosen))],
        "query_toks": [
            {vocabulary[term]: float(weight) for term, weight in zip(terms, values)} for terms, values in zip(chosen, weights)
        ],
    })  # fmt: skip
    expected = [matrix[:, terms] @ values.astype(float) for terms, values in zip(chosen, weights)]
    for algorithm in ("terrier", "exhaustive", "maxscore", "bmp"):
        found = index.retriever(algorithm=algorithm, num_results=10)(queries)
        for qid, scores in enumerate(expected):
            rows_of_query = found[found["qid"] == str(qid)]
            np.testing.assert_allclose(rows_of_query["score"], np.sort(scores)[::-1][:10], rtol=1e-4)
            places = [docnos.index(docno) for docno in rows_of_query["docno"]]
            np.testing.assert_allclose(scores[places], rows_of_query["score"], rtol=1e-4)
