"""Encoders that fold, against the maximum over the columns of an encoder that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import CSPLADE, ContractError, EncodedCollection, FoldTerms, ImpactIndex, export_sentence_transformers
from pyterrier_csplade.vectors import fold_term
from support.models import language_model, tokenizer
from support.texts import DOCUMENTS

TEXTS = list(DOCUMENTS.values())
DOCS = [{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("folding") / "model"
    CSPLADE((language_model(), tokenizer())).save(path)
    return str(path)


def folded_by_hand(matrix: csr_matrix, terms: Any) -> dict[str, np.ndarray]:
    dense = matrix.toarray()
    found: dict[str, np.ndarray] = {}
    for column, term in enumerate(terms):
        folded = fold_term(term, "byte-level")
        found[folded] = np.maximum(found.get(folded, 0), dense[:, column])
    return found


@pytest.mark.parametrize("head", ["streamed", "screened"])
def test_vectors_are_maxima_over_spellings(saved: str, head: Literal["streamed", "screened"]) -> None:
    plain = CSPLADE(saved, device="cpu", head=head)
    folding = CSPLADE(saved, device="cpu", head=head, fold="case+space")
    assert folding.contract == plain.contract.replace(fold="case+space")
    expected, found = folded_by_hand(plain.encode_docs(TEXTS), plain.vocabulary), folding.encode_docs(TEXTS)
    assert list(folding.vocabulary) == list(expected) and len(expected) < len(plain.vocabulary)
    np.testing.assert_allclose(found.toarray(), np.stack(list(expected.values()), axis=1), rtol=1e-5, atol=1e-6)
    assert found.has_sorted_indices
    few = folding.encode_docs(TEXTS, top_k=5)
    assert np.diff(few.indptr).tolist() == [5] * len(TEXTS)  # after the folding


def test_folding_vectors_and_folding_while_encoding_go_together(saved: str, tmp_path: Path) -> None:
    plain, folding = CSPLADE(saved, device="cpu"), CSPLADE(saved, device="cpu", fold="case+space")
    one, other = ImpactIndex(tmp_path / "one"), ImpactIndex(tmp_path / "other")
    (plain.doc_encoder() >> FoldTerms() >> one).index(DOCS)
    (folding.doc_encoder() >> other).index(DOCS)
    queries = folding.query_encoder()
    found = [(queries >> index.retriever(algorithm="exhaustive")).search("Inverted INDEX") for index in (one, other)]
    assert found[0]["docno"].tolist() == found[1]["docno"].tolist()
    np.testing.assert_allclose(found[0]["score"], found[1]["score"], rtol=1e-4)
    with pytest.raises(ContractError, match="fold"):
        (plain.query_encoder() >> one.retriever()).search("inverted index")


def test_saved_collected_and_counted(saved: str, tmp_path: Path) -> None:
    folding = CSPLADE(saved, device="cpu", fold="case+space")
    folding.save(tmp_path / "folded")
    again = CSPLADE(tmp_path / "folded", device="cpu")
    assert again.contract.fold == "case+space" and again.vocabulary.terms == folding.vocabulary.terms
    assert (again.encode_docs(TEXTS) != folding.encode_docs(TEXTS)).nnz == 0
    collection = EncodedCollection(tmp_path / "collection")
    collection.encode(folding.doc_encoder(), DOCS)
    assert list(collection.vocabulary) == list(folding.vocabulary.terms)
    toks = next(iter(folding.doc_encoder(counts=True).transform_iter([{"docno": "d", "text": "Dogs dogs and AND"}])))
    assert toks["toks_tf"] and set(toks["toks_tf"]) <= set(folding.vocabulary)


def test_what_cannot_fold_says_so(saved: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="cannot express folding"):
        export_sentence_transformers(CSPLADE(saved, device="cpu", fold="case+space"), tmp_path / "export")
    with pytest.raises(ValueError, match="fold must be"):
        CSPLADE(saved, fold="stem")  # type: ignore[arg-type]


def test_contracts_that_differ_in_folding_say_so(csplade: CSPLADE) -> None:
    assert "folded terms" not in csplade.contract.summary
    assert csplade.contract.replace(fold="case+space").summary.endswith(", folded terms)")
    with pytest.raises(ContractError, match="fold must be None or 'case.space', found 'case'"):
        CSPLADE("some/model", fold="case")  # type: ignore[arg-type]
