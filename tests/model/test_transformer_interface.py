"""What encoders and scorer have in common: frames, lists and streams, inspection without weights, and equality."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import CSPLADE, Quantizer
from support.results import results
from support.texts import DOCUMENTS

Make = Callable[[CSPLADE], pt.Transformer]
ALL: list[Make] = [CSPLADE.doc_encoder, CSPLADE.query_encoder, CSPLADE.scorer]


# ------------------------------------------------------------------------------------------------------ frames, streams


@pytest.mark.parametrize("make", ALL)
def test_frames_lists_and_generators_give_the_same(
    csplade: CSPLADE, topics: pd.DataFrame, documents: pd.DataFrame, make: Make
) -> None:
    transformer, inp = make(csplade), results(topics, documents).reset_index(drop=True)
    expected = transformer(inp).to_dict(orient="records")
    records = inp.to_dict(orient="records")
    for found in (transformer(records), list(transformer(iter(records))), list(transformer.transform_iter(records))):
        assert len(found) == len(expected)
        for left, right in zip(found, expected):
            assert left.keys() == right.keys()
            for key, value in right.items():
                assert left[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, (dict, float)) else value)


@pytest.mark.parametrize("make", ALL)
def test_the_input_stays_and_what_it_holds_comes_out(
    csplade: CSPLADE, topics: pd.DataFrame, documents: pd.DataFrame, make: Make
) -> None:
    inp = results(topics, documents)
    inp = inp.assign(number=np.arange(len(inp), dtype=np.int8), kind=pd.Categorical(["x", "y"] * (len(inp) // 2)), nothing=None)
    inp.index = pd.Index([f"i{row // 2}" for row in range(len(inp))])  # not unique
    before = inp.copy(deep=True)
    found = make(csplade)(inp)
    pd.testing.assert_frame_equal(inp, before)
    pd.testing.assert_frame_equal(found[list(inp.columns)], before)


@pytest.mark.parametrize("make", ALL)
def test_records_are_not_changed(csplade: CSPLADE, make: Make) -> None:
    records: list[dict[str, Any]] = [{"qid": "1", "query": "a", "docno": "x", "text": "t", "extra": [1]}]
    found = make(csplade)(records)
    assert records == [{"qid": "1", "query": "a", "docno": "x", "text": "t", "extra": [1]}]
    assert found[0]["extra"] == [1]


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_results_do_not_depend_on_batches_and_chunks(csplade: CSPLADE, documents: pd.DataFrame, chunk: int) -> None:
    expected = csplade.doc_encoder(quantizer=None)(documents)["toks"]
    encoder = csplade.doc_encoder(quantizer=None, batch_size=chunk)
    records = documents.to_dict(orient="records")
    found = [record for start in range(0, len(records), chunk) for record in encoder(records[start : start + chunk])]
    for record, toks in zip(found, expected):
        weights = {term: toks.get(term, 0.0) for term in {*toks, *record["toks"]}}
        assert record["toks"] == pytest.approx(weights, rel=1e-5, abs=1e-5)


def test_results_repeat_exactly(csplade: CSPLADE, documents: pd.DataFrame) -> None:
    encoder = csplade.doc_encoder(quantizer=None)
    assert list(encoder(documents)["toks"]) == list(encoder(documents)["toks"])


def test_a_stream_is_read_chunk_by_chunk(csplade: CSPLADE) -> None:
    read = 0

    def corpus() -> Iterator[dict[str, str]]:
        nonlocal read
        for read in range(1, 10_000):
            yield {"docno": str(read), "text": "a text"}

    encoder = csplade.doc_encoder(batch_size=2)
    assert encoder.model_batch_size == encoder.get_parameter("batch_size") == 2
    next(iter(encoder.transform_iter(corpus())))
    assert read == 3 * 64, "one window in use, two under way"


def test_indexing_pipelines_hand_over_chunks_that_can_be_sorted_by_length(
    csplade: CSPLADE, encoded: list[tuple[str, list[str]]]
) -> None:
    class Sink(pt.Indexer):
        def index(self, iter: Any, **kwargs: Any) -> list[Any]:
            return list(iter)

    corpus = [{"docno": str(number), "text": "a text"} for number in range(300)]
    nothing = pt.Transformer.identity()
    found = (nothing >> csplade.doc_encoder(batch_size=8) >> nothing >> Sink()).index(corpus)
    assert [len(texts) for _, texts in encoded] == [256, 44]
    assert [document["docno"] for document in found] == [document["docno"] for document in corpus]


def test_sliding_windows_are_documents(csplade: CSPLADE) -> None:
    long = " ".join(DOCUMENTS.values())
    windows = pt.text.sliding(text_attr="text", length=20, stride=10, prepend_attr=None)
    pipeline = windows >> csplade.doc_encoder()
    inp = pd.DataFrame({"docno": ["long", "short"], "text": [long, "dogs"]})
    found = pipeline(inp)
    texts = windows(inp)
    assert list(found["docno"]) == list(texts["docno"])
    assert len(found) > 4 and all(found["toks"].str.len())
    expected = csplade.doc_encoder()(texts)["toks"]
    assert list(found["toks"]) == list(expected)
    assert [record["docno"] for record in pipeline(inp.to_dict(orient="records"))] == list(texts["docno"])


# --------------------------------------------------------------------------------------- what must not load the weights


@pytest.mark.parametrize("make", ALL)
def test_nothing_is_loaded_for_construction_inspection_repr_and_schematic(
    unloaded: CSPLADE, no_network: None, make: Make
) -> None:
    transformer = make(unloaded)
    for columns in pt.inspect.transformer_inputs(transformer):
        pt.inspect.transformer_outputs(transformer, columns)
    assert pt.inspect.transformer_apply_attributes(transformer) == transformer
    assert pt.inspect.subtransformers(transformer) == {}
    assert str(transformer) in repr(transformer >> pt.Transformer.identity())
    assert "CSPLADE" in pt.schematic.draw(transformer)
    assert transformer.compile() is transformer


def test_inputs_and_outputs_are_exact(unloaded: CSPLADE) -> None:
    encoder = unloaded.doc_encoder(text_field="body")
    assert pt.inspect.transformer_inputs(encoder) == [["docno", "body"]]
    assert pt.inspect.transformer_outputs(encoder, ["docno", "body", "x"]) == ["docno", "body", "x", "toks"]
    assert pt.inspect.transformer_inputs(unloaded.query_encoder()) == [["qid", "query"]]
    assert pt.inspect.transformer_outputs(unloaded.query_encoder(), ["qid", "query"]) == ["qid", "query", "query_toks"]
    inputs = pt.inspect.transformer_inputs(unloaded.scorer())
    assert inputs[0] == ["qid", "query", "docno", "text"]
    assert ["qid", "query_toks", "docno", "toks"] in inputs
    for columns in inputs:
        assert pt.inspect.transformer_outputs(unloaded.scorer(), columns) == [*columns, "score", "rank"]


@pytest.mark.parametrize("make", ALL)
def test_no_rows_give_no_rows(unloaded: CSPLADE, make: Make) -> None:
    transformer = make(unloaded)
    assert transformer([]) == list(transformer(iter([]))) == []
    columns = pt.inspect.transformer_inputs(transformer)[0]
    found = transformer(pd.DataFrame(columns=columns))
    assert len(found) == 0
    for column, dtype in {"score": "float64", "rank": "int64", "toks": "object", "query_toks": "object"}.items():
        assert column not in found or found[column].dtype == dtype


# ----------------------------------------------------------------------------------------------------------- identity


def test_repr_is_the_call_that_makes_an_equal_one() -> None:
    csplade = CSPLADE("some/model", batch_size=8, text_field="body")
    made = [
        csplade.doc_encoder(),
        csplade.doc_encoder(text_field="title", top_k=100, min_weight=0.1, quantizer=None, batch_size=4),
        csplade.doc_encoder(quantizer=Quantizer(scale=50.0)),
        csplade.query_encoder(),
        csplade.query_encoder(top_k=10),
        csplade.scorer(),
        csplade.scorer(text_field="title"),
    ]
    for transformer in made:
        again = eval(repr(transformer), {"CSPLADE": CSPLADE, "Quantizer": Quantizer})
        assert again == transformer and hash(again) == hash(transformer) and again is not transformer
        assert [other == transformer for other in made].count(True) == 1
    assert repr(made[0]) == "CSPLADE('some/model', batch_size=8, text_field='body').doc_encoder()"
    assert repr(made[4]).endswith(".query_encoder(top_k=10)")
    assert csplade.doc_encoder(text_field="body", verbose=True) == made[0]
    assert made[0] != made[3] and made[0] != "x"
