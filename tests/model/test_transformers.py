"""Encoders: exact values against numpy, bad input, and what does not fit."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from scipy.sparse import csr_matrix

from pyterrier_csplade import CSPLADE, Contract, DataError, ImpactVector, Quantizer
from support.models import language_model, tokenizer
from support.texts import dense

Make = Callable[[CSPLADE], pt.Transformer]


def as_dict(csplade: CSPLADE, weights: np.ndarray) -> dict[str, float]:
    return {csplade.vocabulary[column]: weights[column] for column in np.flatnonzero(weights).tolist()}


# ------------------------------------------------------------------------------------------------------------- values


def test_toks_are_the_rounded_weights(csplade: CSPLADE, documents: pd.DataFrame) -> None:
    weights = dense(csplade.encode_docs(list(documents["text"])))
    for toks, row in zip(csplade.doc_encoder()(documents)["toks"], np.floor(weights * 100 + 0.5)):
        assert toks == as_dict(csplade, row)
        assert all(type(impact) is int and impact > 0 for impact in toks.values())
        assert list(toks.values()) == sorted(toks.values(), reverse=True)


def test_the_scale_is_the_contracts_by_default_and_the_quantizers_otherwise(documents: pd.DataFrame) -> None:
    csplade = CSPLADE((language_model(), tokenizer()), contract=Contract(impact_scale=7))
    weights = dense(csplade.encode_docs(list(documents["text"])))
    for encoder, scale in [(csplade.doc_encoder(), 7), (csplade.doc_encoder(quantizer=Quantizer(13)), 13)]:
        assert encoder(documents)["toks"][3] == as_dict(csplade, np.floor(weights[3] * scale + 0.5))


def test_without_a_quantizer_toks_are_float_weights(csplade: CSPLADE, documents: pd.DataFrame) -> None:
    weights = dense(csplade.encode_docs(list(documents["text"])))
    for toks, row in zip(csplade.doc_encoder(quantizer=None)(documents)["toks"], weights):
        assert toks == pytest.approx(as_dict(csplade, row), rel=1e-6)


def test_cuts_come_before_quantising(csplade: CSPLADE, documents: pd.DataFrame) -> None:
    weights = dense(csplade.encode_docs(list(documents["text"])))
    toks = csplade.doc_encoder(top_k=5, min_weight=1.5, quantizer=Quantizer(1))(documents)["toks"]
    for found, row in zip(toks, weights):
        kept = [column for column in np.argsort(-row, kind="stable")[:5] if row[column] >= 1.5]
        assert found == {csplade.vocabulary[column]: np.floor(row[column] + 0.5) for column in kept}


def test_query_toks_are_float_weights(csplade: CSPLADE, topics: pd.DataFrame) -> None:
    weights = dense(csplade.encode_queries(list(topics["query"])))
    for toks, row in zip(csplade.query_encoder()(topics)["query_toks"], weights):
        assert toks == pytest.approx(as_dict(csplade, row), rel=1e-6)
    three = csplade.query_encoder(top_k=3)(topics)["query_toks"][0]
    assert list(three) == [csplade.vocabulary[column] for column in np.argsort(-weights[0])[:3]]


def test_vectors_carry_the_contract_also_through_pickle(
    csplade: CSPLADE, documents: pd.DataFrame, topics: pd.DataFrame
) -> None:
    toks = csplade.doc_encoder()(documents)["toks"][0]
    query_toks = csplade.query_encoder()(topics)["query_toks"][0]
    assert toks.contract == query_toks.contract == csplade.contract
    assert pickle.loads(pickle.dumps(toks)).contract == csplade.contract


def test_queries_of_one_text_are_encoded_once(csplade: CSPLADE, encoded: list[tuple[str, list[str]]]) -> None:
    queries = pd.DataFrame({"qid": ["1", "2", "3"], "query": ["a dog", "a cat", "a dog"]})
    toks = csplade.query_encoder()(queries)["query_toks"]
    assert encoded == [("query", ["a dog", "a cat"])]
    assert toks[0] == toks[2] != toks[1]


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_texts_without_words_have_empty_vectors(csplade: CSPLADE, text: str) -> None:
    assert csplade.doc_encoder()([{"docno": "x", "text": text}])[0]["toks"] == {}
    assert csplade.query_encoder()([{"qid": "1", "query": text}])[0]["query_toks"] == {}
    assert csplade.scorer()([{"qid": "1", "query": text, "docno": "x", "text": "a"}])[0]["score"] == 0


@pytest.mark.parametrize("text", [None, float("nan"), pd.NA, 3, b"bytes", "a\ud800", ["a"]])
@pytest.mark.parametrize("frame", [True, False])
def test_what_is_no_text_is_refused_by_name(csplade: CSPLADE, text: Any, frame: bool) -> None:
    records: list[dict[str, Any]] = [
        {"qid": "q1", "query": "good", "docno": "d1", "text": "good"},
        {"qid": "q2", "query": "good", "docno": "d2", "text": text},
        {"qid": "q3", "query": text, "docno": "d3", "text": "good"},
    ]
    inp: Any = pd.DataFrame(records, dtype=object) if frame else records
    for transformer, name in [(csplade.doc_encoder(), "document d2"), (csplade.query_encoder(), "query q3")]:
        with pytest.raises(DataError, match=name):
            transformer(inp)
    with pytest.raises(DataError, match="document d2"):
        csplade.scorer()(inp[:2])
    with pytest.raises(DataError, match="query q3"):
        csplade.scorer()(inp)


@pytest.mark.parametrize(
    "text", ["word " * 20_000, "x" * 100_000, "🙂 検索 שלום \u202e", "a\0b", "\ufeff", '#combine(a b)^2 "quoted"', "<s> </s>"]
)
def test_unusual_texts_have_positive_finite_impacts(csplade: CSPLADE, text: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was longer than")
        toks = csplade.doc_encoder()([{"docno": "x", "text": text}])[0]["toks"]
    assert all(term and 0 < impact < 2**31 for term, impact in toks.items())
    assert not {"<s>", "</s>", "<pad>"} & set(toks)


def test_qids_may_be_numbers_and_stand_twice(csplade: CSPLADE) -> None:
    found = csplade.query_encoder()(pd.DataFrame({"qid": [1, 1, 2], "query": ["a", "b", "a"]}))
    assert list(found["qid"]) == [1, 1, 2]
    assert found["query_toks"][0] == found["query_toks"][2]


@pytest.mark.parametrize(
    ("make", "missing", "present"),
    [
        (CSPLADE.doc_encoder, "text", ["docno"]),
        (CSPLADE.doc_encoder, "docno", ["text"]),
        (CSPLADE.query_encoder, "query", ["qid"]),
        (CSPLADE.query_encoder, "qid", ["query"]),
        (CSPLADE.scorer, "text", ["qid", "query", "docno"]),
        (CSPLADE.scorer, "docno", ["qid", "query", "text"]),
    ],
)
def test_missing_columns_are_named(unloaded: CSPLADE, make: Make, missing: str, present: list[str]) -> None:
    transformer = make(unloaded)
    for inp in (pd.DataFrame([["a"] * len(present)], columns=present), [dict.fromkeys(present, "a")]):
        with pytest.raises(pt.validate.InputValidationError) as error:
            transformer(inp)
        assert str(transformer) in str(error.value)
        assert error.value.modes[0].missing_columns == [missing]


@pytest.mark.parametrize("quantizer", ["default", None, Quantizer(3), lambda matrix: matrix])
def test_weights_that_are_not_finite_are_refused_by_name(
    csplade: CSPLADE, quantizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden_states = csplade.backbone.hidden_states

    def broken(*args: Any) -> Any:
        states = hidden_states(*args).clone()
        states[-1, -1] = np.nan
        return states

    monkeypatch.setattr(csplade.backbone, "hidden_states", broken)
    with pytest.raises(DataError, match="document d3 has the weight nan"):
        csplade.doc_encoder(quantizer=quantizer)([{"docno": docno, "text": "a"} for docno in ("d1", "d2", "d3")])


def test_a_collapsed_model_is_noticed(csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch) -> None:
    def collapsed(batch: Any, *args: Any, **kwargs: Any) -> csr_matrix:
        return csr_matrix((len(batch.texts), len(csplade.vocabulary)), dtype=np.float32)

    monkeypatch.setattr(csplade, "encode_tokenized", collapsed)
    with pytest.warns(UserWarning, match=r"2 of 2 texts \(100%\) have no impact"):
        found = csplade.doc_encoder()([{"docno": "1", "text": "a"}, {"docno": "2", "text": "b"}, {"docno": "3", "text": " "}])
    assert [document["toks"] for document in found] == [{}, {}, {}]


@pytest.mark.filterwarnings("error")
def test_empty_texts_are_no_sign_of_a_collapse(csplade: CSPLADE) -> None:
    csplade.doc_encoder()([{"docno": "1", "text": ""}, {"docno": "2", "text": " "}])


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 0},
        {"min_weight": -0.1},
        {"min_weight": float("nan")},
        {"batch_size": 0},
        {"quantizer": "int8"},
        {"quantizer": Quantizer},
    ],
)
def test_arguments_out_of_range_are_refused(unloaded: CSPLADE, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        unloaded.doc_encoder(**settings)


# ------------------------------------------------------------------------------- progress, memory and truncated documents


def test_silent_unless_verbose(csplade: CSPLADE, documents: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    bars: list[dict[str, Any]] = []

    shown: list[int] = []

    class Bar:
        def __init__(self, **kwargs: Any) -> None:
            bars.append(kwargs)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *args: object) -> None:
            pass

        update = shown.append

    monkeypatch.setattr(pt, "tqdm", Bar)
    csplade.doc_encoder()(documents)
    assert (bars, capfd.readouterr()) == ([], ("", ""))
    csplade.doc_encoder(verbose=True)(documents)
    assert [(bar["unit"], bar["total"]) for bar in bars] == [("document", len(documents))]
    assert sum(shown) == len(documents)


def test_a_batch_that_does_not_fit_is_halved(
    csplade: CSPLADE, documents: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = csplade.doc_encoder()(documents)["toks"]
    small = CSPLADE((language_model(), tokenizer()), batch_size=8)
    hidden_states, sizes = small.backbone.hidden_states, []

    def limited(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        sizes.append(input_ids.shape)
        if input_ids.numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return hidden_states(input_ids, attention_mask)

    monkeypatch.setattr(small.backbone, "hidden_states", limited)
    found = small.doc_encoder()(documents)["toks"]
    assert len(sizes[0]) == 2 and sizes[0][0] == 8 and sizes[1].numel() <= sizes[0].numel() / 2
    assert max(size.numel() for size in sizes[-2:]) <= 100
    for left, right in zip(found, expected):
        assert left.keys() == right.keys() and all(abs(left[term] - right[term]) <= 1 for term in left)


def test_a_document_that_does_not_fit_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    csplade = CSPLADE((language_model(), tokenizer()))

    def full(*args: Any) -> torch.Tensor:
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(csplade.backbone, "hidden_states", full)
    with pytest.raises(DataError, match="document d2: not enough memory"):
        csplade.doc_encoder()([{"docno": "d1", "text": "a"}, {"docno": "d2", "text": "a longer text"}])


def test_truncated_documents_are_counted_and_said_once() -> None:
    csplade = CSPLADE((language_model(), tokenizer()), contract=Contract(document_length=4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            csplade.doc_encoder()([{"docno": "1", "text": "one two three four five six"}, {"docno": "2", "text": "a"}])
    assert csplade.truncated["document"] == 2
    expected = "1 document was longer than 4 tokens and was truncated (shown once; see `.truncated` for the count)"
    assert len([warning for warning in caught if str(warning.message).startswith(expected)]) == 1


def test_plain_dicts_are_what_others_get(csplade: CSPLADE, documents: pd.DataFrame) -> None:
    toks = csplade.doc_encoder()(documents)["toks"][0]
    assert isinstance(toks, dict) and isinstance(toks, ImpactVector)
    assert pd.Series([toks]).map(dict)[0] == toks
