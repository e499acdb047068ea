"""Query tables in sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import identity

from pyterrier_csplade import CSPLADE, Contract, ContractError, QueryTable, export_sentence_transformers
from support.models import TEXTS, language_model, tokenizer

QUERIES = [*TEXTS, "dogs and dogs", "inverted"]


def model(seed: int = 0, **contract: Any) -> CSPLADE:
    return CSPLADE((language_model(seed=seed), tokenizer()), contract=Contract(document_length=24, **contract))


def table(csplade: CSPLADE, **settings: Any) -> QueryTable:
    weights = np.random.default_rng(0).random(len(csplade.vocabulary))
    weights[csplade.vocabulary.column("Ġ")] = 0  # the space of a prefix, if it is a token of its own, is no term of the table
    return QueryTable.from_weights(csplade, weights, **settings)


@pytest.mark.filterwarnings("ignore:.* longer than")
@pytest.mark.parametrize("contract", [{}, {"query_prefix": "query: ", "query_length": 7, "document_prefix": "passage: "}])
def test_sentence_transformers_gives_the_same_vectors(tmp_path: Path, contract: dict[str, Any]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    csplade = model(**contract)
    queries = table(csplade)
    export_sentence_transformers(csplade, tmp_path / "export", queries=queries)
    encoder = sentence_transformers.SparseEncoder(str(tmp_path / "export"), device="cpu")
    for found, expected in (
        (encoder.encode_query(QUERIES), queries.encode(QUERIES)),
        (encoder.encode_document(TEXTS), csplade.encode_docs(TEXTS)),
    ):
        dense = found.to_dense().numpy()[:, csplade.vocabulary.token_ids]
        np.testing.assert_allclose(dense, expected.toarray(), atol=1e-5)


def test_what_cannot_be_expressed(tmp_path: Path) -> None:
    csplade = model()
    size = len(csplade.vocabulary)
    for queries, message in (
        (table(csplade, expansion=identity(size, format="csr")), "cannot express the expansion of a query table"),
        (table(csplade, counts=True), "cannot express a query table that counts repeated tokens"),
        (table(model(seed=3)), "the query table was made for the documents of .*, not of "),
    ):
        with pytest.raises(ContractError, match=message):
            export_sentence_transformers(csplade, tmp_path / "export", queries=queries)
    assert not (tmp_path / "export").exists()
