"""Documents that cannot be indexed exactly, and invalid arguments, are refused by name; odd but exact ones are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inside.engines import escape
from pyterrier_csplade import ContractError, DataError, ImpactIndexError, OpenSearchIndex, Vocabulary
from support.fake_opensearch import FakeCluster
from support.opensearch_documents import CONTRACT, documents, impacts


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.mark.parametrize("docno", [None, 3, "", "x" * 513, "é" * 257, "\ud800", float("nan")])
@pytest.mark.parametrize("position", [1, 500])
def test_docno_that_cannot_be_an_id_is_refused_with_its_position(cluster: FakeCluster, docno: Any, position: int) -> None:
    rows = documents(500)
    rows[position - 1]["docno"] = docno
    with pytest.raises(DataError, match=f"document {position} "):
        OpenSearchIndex(cluster.client(), "docs").index(rows)


@pytest.mark.parametrize(
    "docno", ['"}\n{"index":{"_id":"evil"}}', "a\tb", " d", "d ", "\ufeffd", "\u202ed", "../d", "\0", "x" * 512]
)
def test_docnos_and_fields_are_data(cluster: FakeCluster, docno: str) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    index.toks_indexer(meta=["url"]).index([{"docno": docno, "toks": {docno: 3}, "url": docno}])
    assert list(cluster.documents("docs")) == [docno]
    assert cluster.documents("docs")[docno]["url"] == docno
    assert index.retriever()([{"qid": "1", "query_toks": {docno: 2.0}}])[0]["docno"] == docno


def test_docno_that_appears_twice_is_refused(cluster: FakeCluster) -> None:
    with pytest.raises(DataError, match="docno 'd1' of document 4 appears twice"):
        OpenSearchIndex(cluster.client(), "docs").index([*documents(3), documents(2)[1]])


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "3", None, [1], b"1", 10**400])
def test_weight_that_is_not_a_finite_number_is_refused(cluster: FakeCluster, weight: Any) -> None:
    with pytest.raises(DataError, match="document 'd': the weight of 'x'"):
        OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1, "x": weight}}])


def test_impact_above_512_is_refused_and_rescaled_on_request(cluster: FakeCluster) -> None:
    rows = [{"docno": "d", "toks": {"a": 512, "b": 513, "c": 1}}]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(DataError, match=r"document 'd': the impact of 'b' is 513, above 512.*scale=.*0.998"):
        index.index(rows)
    assert "docs" not in cluster.indexes
    with pytest.warns(UserWarning, match="changed 0.195% of the sum of the weights, and 0 of 3 weights became 0"):
        index.toks_indexer(scale=0.5).index(rows)
    # 256, 256.5 and 0.5 became 256, 257 and 1: 1 of 513.
    assert impacts(cluster) == {"d": {"a": 256, "b": 257, "c": 1}}
    assert index.statistics["quantization_loss"] == pytest.approx(1 / 513)


def test_weights_are_rounded_half_up_and_zeros_are_left_out_and_counted(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.warns(UserWarning, match="2 of 5 weights became 0"):
        index.index(
            [{"docno": "d", "toks": {"a": 0.5, "b": 1.49, "c": 0.49, "d": 0.2, "e": -3.0, "f": 0, "g": np.float32(2.5)}}]
        )
    assert impacts(cluster) == {"d": {"a": 1, "b": 1, "g": 3}}
    assert index.statistics["dropped"] == 2 and index.statistics["postings"] == 3


def test_empty_documents_are_kept_and_too_many_are_refused(cluster: FakeCluster) -> None:
    rows = [{"docno": "e", "toks": {}}, *documents(3)]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.warns(UserWarning, match=r"1 of 4 documents \(25.0%\) have no impact"):
        index.index(rows)
    assert impacts(cluster)["e"] == {} and len(index) == 4
    with pytest.raises(DataError, match="75.0%.*max_empty"):
        index.toks_indexer(overwrite=True).index([*documents(1), *({"docno": f"e{i}", "toks": {}} for i in range(3))])
    assert not index.built()
    for nothing in ([], [{"docno": "e", "toks": {}}]):
        with pytest.raises(DataError, match="nothing to index"):
            index.toks_indexer(overwrite=True).index(nothing)


@pytest.mark.parametrize("toks", [None, "a", ["a"], 3.0])
def test_toks_other_than_a_dict_are_refused(cluster: FakeCluster, toks: Any) -> None:
    with pytest.raises(DataError, match="document 'd': toks must be a dict"):
        OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": toks}])


@pytest.mark.parametrize("value", [{"x"}, float("nan"), "\ud800"])
def test_field_that_json_cannot_hold_is_refused(cluster: FakeCluster, value: Any) -> None:
    indexer = OpenSearchIndex(cluster.client(), "docs").toks_indexer(meta=["url"])
    with pytest.raises(DataError, match="document 'd0' has a field"):
        indexer.index([{**documents(1)[0], "url": value}])
    with pytest.raises(DataError, match="document 'd0' has no field 'url'"):
        indexer.index(documents(1))


@given(st.text(), st.text())
def test_names_of_terms_have_no_dot_and_differ(one: str, other: str) -> None:
    first, second = escape(one), escape(other)
    assert first is not None and "." not in first and first != ""
    assert (first == second) == (one == other)


def test_terms_are_named_by_token_id_with_a_vocabulary(cluster: FakeCluster) -> None:
    vocabulary = Vocabulary(["a.b", "%", "Ġthe"], [7, 12, 400])
    index = OpenSearchIndex(cluster.client(), "docs", vocabulary=vocabulary)
    index.index([{"docno": "d", "toks": {"a.b": 3, "Ġthe": 4}}])
    assert impacts(cluster) == {"d": {"t7": 3, "t400": 4}}
    assert index.retriever()([{"qid": "1", "query_toks": {"a.b": 2.0, "unknown": 9.0}}])[0]["score"] == 6.0
    with pytest.raises(DataError, match="term 'foreign' which is not in the vocabulary"):
        index.toks_indexer(overwrite=True).index([{"docno": "d", "toks": {"foreign": 3}}])
    index.toks_indexer(overwrite=True).index([{"docno": "d", "toks": {"a.b": 3}}])
    for other in (None, Vocabulary(["a.b"], [8])):
        with pytest.raises(ImpactIndexError, match="open it with vocabulary=csplade.vocabulary"):
            OpenSearchIndex(cluster.client(), "docs", vocabulary=other).retriever()([{"qid": "1", "query_toks": {"a.b": 2.0}}])


@pytest.mark.parametrize("term", ["\ud800", "x" * 32_767, "é" * 16_384, 7])
def test_term_without_a_name_is_refused(cluster: FakeCluster, term: Any) -> None:
    with pytest.raises(DataError, match="document 'd': OpenSearch cannot index the term"):
        OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {term: 1}}])


@pytest.mark.parametrize("given", [["a text"], {"docno": "d"}, [("d", 1)]])
def test_documents_other_than_dicts_are_refused(cluster: FakeCluster, given: Any) -> None:
    with pytest.raises(DataError, match=r"document 1 must be a dict.*to_dict\('records'\)"):
        OpenSearchIndex(cluster.client(), "docs").index(given)


def test_impacts_of_two_scales_are_refused(cluster: FakeCluster) -> None:
    rows = [*documents(3), *documents(4, CONTRACT.replace(impact_scale=50.0))[3:]]
    with pytest.raises(ContractError, match="document 'd3' has impacts of scale 50, document 'd0' of 100"):
        OpenSearchIndex(cluster.client(), "docs").index(rows)


def test_documents_of_two_encoders_are_refused(cluster: FakeCluster) -> None:
    other = CONTRACT.replace(weights="v", base_model="lm-two")
    with pytest.raises(ContractError, match="document 'd7' was encoded by lm-two.*lm-one"):
        OpenSearchIndex(cluster.client(), "docs").index([*documents(7), documents(8, other)[7]])


@pytest.mark.parametrize("arguments", [
    {"scale": 0}, {"max_empty": 2}, {"shards": "2"},
    {"shards": 0}, {"replicas": -1}, {"parallel": 0}, {"request_bytes": 0}, {"meta": ["a.b"]}, {"text": "toks"}
])  # fmt: skip
def test_arguments_that_cannot_work_are_refused(cluster: FakeCluster, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be|cannot be"):
        OpenSearchIndex(cluster.client(), "docs").toks_indexer(**arguments)
    with pytest.raises(TypeError, match="unknown arguments: batch"):
        OpenSearchIndex(cluster.client(), "docs").index([], batch=3)
