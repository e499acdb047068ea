"""Folding of finished vectors, against a dict that is filled term by term."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import Contract, ContractError, FoldTerms, ImpactVector, MatrixVectors, Vocabulary
from pyterrier_csplade.vectors import fold_matrix, fold_term, fold_vocabulary


@pytest.mark.parametrize(
    ("term", "folded"),
    [
        ("ĠHeart", "heart"), ("HEART", "heart"), ("heart", "heart"), ("ĠÃī", "Ã©"), ("Ã", "Ã"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"),
        ("ĠĠx", "x"), ("Ċ", "Ċ"), ("Ġ12", "12"), ("Ä°", "iÌĩ"), ("検", "検"),
    ],
)  # fmt: skip
def test_byte_level_terms(term: str, folded: str) -> None:
    assert fold_term(term, "byte-level") == folded
    assert fold_term(folded, "byte-level") == folded


@pytest.mark.parametrize(
    ("term", "folded"), [("▁Heart", "heart"), ("É", "é"), ("<0xC3>", "<0xC3>"), ("▁", "▁"), ("検", "検"), ("X" * 61, "X" * 61)]
)
def test_sentencepiece_terms(term: str, folded: str) -> None:
    assert fold_term(term, "sentencepiece") == folded


def test_a_vocabulary_keeps_the_first_id_of_each_term() -> None:
    folded, columns = fold_vocabulary(Vocabulary(["a", "ĠB", "Ġa", "b", "A"], [3, 5, 7, 8, 9]))
    assert folded.terms == ("a", "b") and folded.token_ids.tolist() == [3, 5]
    assert columns.tolist() == [0, 1, 0, 1, 0]


def test_vectors_get_the_largest_weight_and_a_folded_contract() -> None:
    contract = Contract(weights="w", vocabulary_sha256="v")
    vectors = [ImpactVector({"ĠThe": 3, "x": 1, "the": 7, "THE": 2}, contract), None]
    folded = FoldTerms()(pd.DataFrame({"docno": ["d1", "d2"], "toks": vectors}))["toks"].tolist()
    assert folded == [{"the": 7, "x": 1}, None] and list(folded[0]) == ["the", "x"]
    assert folded[0].contract == contract.replace(fold="case+space") != contract
    again = list(FoldTerms().transform_iter([{"docno": "d1", "toks": folded[0]}]))
    assert again[0]["toks"] == folded[0] and again[0]["toks"].contract == folded[0].contract


def test_matrices_are_folded_as_dicts_are() -> None:
    rng = np.random.default_rng(0)
    terms = [f"{space}{word}" for word in ("aB", "ab", "AB", "c", "C", "d") for space in ("", "Ġ")]
    dense = rng.integers(0, 9, (20, len(terms))) * (rng.random((20, len(terms))) < 0.4)
    dense[3] = 0
    encoded = FoldTerms().vectors(MatrixVectors([f"d{n}" for n in range(20)], csr_matrix(dense), terms, Contract()))
    assert list(encoded.vocabulary) == ["ab", "c", "d"] and len(encoded) == 20
    assert encoded.contract is not None and encoded.contract.fold == "case+space"
    ((_, matrix),) = encoded.blocks()
    expected = np.stack([dense[:, :6].max(1), dense[:, 6:10].max(1), dense[:, 10:].max(1)], axis=1)
    assert np.array_equal(matrix.toarray(), expected) and matrix.has_canonical_format
    assert fold_matrix(csr_matrix((2, 3)), np.zeros(3, np.int64), 1).nnz == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on": "text"}, "on must be one of toks, query_toks, found 'text'"),
        ({"on": None}, "on must be .* found None"),
        ({"spelling": "utf-8"}, "spelling must be one of byte-level, sentencepiece, found 'utf-8'"),
        ({"spelling": None}, "spelling must be"),
    ],
)
def test_other_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FoldTerms(**settings)


def test_a_term_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="document 'd': toks: terms must be str, found 3"):
        FoldTerms()(pd.DataFrame({"docno": ["d"], "toks": [{3: 1.0}]}))


def test_contracts_with_another_folding_are_refused() -> None:
    with pytest.raises(ValueError, match="fold must be null or one of case\\+space, found 'stem'"):
        Contract(fold="stem")


@pytest.mark.parametrize(
    ("spelling", "term", "other"), [("byte-level", "▁Heart", "sentencepiece"), ("sentencepiece", "ĠHeart", "byte-level")]
)
def test_terms_of_the_other_spelling_are_refused(spelling: Any, term: str, other: str) -> None:
    """Folding would change the case of some, and leave the space of others."""
    fold = FoldTerms(spelling=spelling)
    frame = pd.DataFrame({"docno": ["d1", "d2"], "toks": [{"x": 1}, {"The": 2, term: 3}]})
    with pytest.raises(ContractError, match=rf"document 'd2': toks has the term '{term}', .*use FoldTerms\(spelling='{other}'"):
        fold(frame)
    vectors = MatrixVectors(["d"], csr_matrix([[1, 2]]), ["The", term])
    with pytest.raises(ContractError, match=f"the vocabulary of the documents has the term '{term}'"):
        fold.vectors(vectors)
    assert FoldTerms(spelling=other)(frame)["toks"][1] == {"the": 2, "heart": 3}  # type: ignore[arg-type]


def test_a_letter_is_no_spelling() -> None:
    """The vocabularies of Gemma and Llama 2 have a letter of Maltese with which byte-level spelling writes a space."""
    folded, columns = fold_vocabulary(Vocabulary(["▁Heart", "heart", "Ġ", "▁the"], [1, 2, 3, 4]))
    assert folded.terms == ("heart", "ġ", "the") and columns.tolist() == [0, 0, 1, 2]
    frame = pd.DataFrame({"docno": ["d"], "toks": [{"▁Heart": 1, "Ġ": 2}]})
    assert FoldTerms(spelling="sentencepiece")(frame)["toks"][0] == {"heart": 1, "ġ": 2}
