"""What an index refuses, drops and keeps, before Terrier is involved."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inside.index import MAX_DOCNO_LENGTH, check_docno, to_impact_array, to_impacts
from pyterrier_csplade import Contract, ContractError, DataError, ImpactIndex, ImpactVector
from pyterrier_csplade.index import Spool, take_documents

GOOD = {"docno": "d", "toks": {"a": 1}}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def contents(spool: Spool) -> list[tuple[tuple[str, ...], dict[str, int]]]:
    """The metadata fields and impacts of the documents to index."""
    terms = list(spool.terms)
    rows = [row for shard in spool.shards() for row in shard]
    toks = [dict(zip((terms[column] for column in row.indices), row.data.tolist())) for row in rows]
    return list(zip(map(tuple, spool.records()), toks))


def documents(toks: dict[str, Any], count: int = 5) -> list[dict[str, Any]]:
    return [{"docno": f"d{i}", "toks": dict(toks)} for i in range(count)]


def test_documents_come_back_as_they_went_in(spool: Spool) -> None:
    stream = [{"docno": "é 1", "toks": {"Ġa": 3, "\n\0": 2**31 - 4}, "text": "not kept"}, {"docno": "d2", "toks": {}}]
    take_documents(stream, spool)
    assert contents(spool) == [(("é 1",), {"Ġa": 3, "\n\0": 2**31 - 4}), (("d2",), {})]
    assert (spool.docnos, spool.counts.tolist(), spool.fractional) == (["é 1", "d2"], [2, 0], False)


@pytest.mark.parametrize("position", [1, 500])
@pytest.mark.parametrize("document", [{"toks": {}}, *({"docno": d, "toks": {}} for d in (None, math.nan, 7, b"d", ["d"]))])
def test_docno_that_is_no_str_is_refused_with_its_position(spool: Spool, position: int, document: dict[str, Any]) -> None:
    stream = documents({"a": 1}, 600)
    stream[position - 1] = document
    with pytest.raises(DataError, match=rf"document {position}\b"):
        take_documents(stream, spool)


@pytest.mark.parametrize("docno", [" d", "d ", "\td", "d\n", "d\0", "\x1fd", "\ufeffd", "d\ud800", "\n", " "])
def test_docno_that_terrier_would_change_is_refused(docno: str) -> None:
    with pytest.raises(DataError, match="document 3"):
        check_docno({"docno": docno}, 3)


@pytest.mark.parametrize("docno", ["", "a b", "a\nb", "a\0b", "../x", "אבג", "d\ufeff", '"}\n{"index":"', "🙂" * 11, "d\u3000"])
def test_other_docnos_are_kept(docno: str) -> None:
    assert check_docno({"docno": docno}, 1) == docno


def test_length_of_docnos_is_measured_in_the_units_of_terrier(spool: Spool) -> None:
    take_documents([GOOD, {"docno": "🙂" * 11, "toks": {}}], spool)
    assert spool.lengths["docno"].units == 22


def test_enormous_docno_is_refused(spool: Spool) -> None:
    with pytest.raises(DataError, match="document 1 has 4,097 characters"):
        take_documents([{"docno": "d" * (MAX_DOCNO_LENGTH + 1), "toks": {}}], spool)


@pytest.mark.parametrize("distance", [1, 5000])
def test_duplicate_docno_is_refused(spool: Spool, distance: int) -> None:
    stream = documents({"a": 1}, distance + 1)
    stream[distance]["docno"] = "d0"
    with pytest.raises(DataError, match=rf"docno 'd0' of document {distance + 1} appears twice"):
        take_documents(stream, spool)


@pytest.mark.parametrize(("policy", "kept"), [("skip", [("x", 1), ("y", 2)]), ("last", [("y", 2), ("x", 5)])])
def test_duplicate_policies(tmp_path: Path, policy: Any, kept: list[tuple[str, int]]) -> None:
    spool = Spool(tmp_path, on_duplicate=policy)
    stream = [("x", {"a": 1}), ("y", {"a": 2}), ("x", {}), ("x", {"a": 5})]
    take_documents(({"docno": docno, "toks": toks} for docno, toks in stream), spool)
    assert [(docno, toks["a"]) for (docno,), toks in contents(spool)] == kept
    assert spool.counts.tolist() == [1, 1]


@pytest.mark.parametrize("toks", [None, math.nan, ["a"], "a", 3])
def test_toks_that_are_no_dict_are_refused(toks: object) -> None:
    with pytest.raises(DataError, match="document 'd7': toks"):
        to_impacts(toks, "d7")


def test_document_without_toks_is_refused(spool: Spool) -> None:
    with pytest.raises(DataError, match="'d1' has no toks"):
        take_documents([GOOD, {"docno": "d1", "text": "x"}], spool)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, np.float32("nan"), "3", [1], 1j, 2**31, 2.0**31, 10**400])
def test_weight_that_is_no_impact_is_refused(weight: Any) -> None:
    with pytest.raises(DataError, match="'d7'.*'term'"):
        to_impacts({"a": 1, "term": weight}, "d7")


def test_sum_of_impacts_must_fit() -> None:
    assert to_impacts({"a": 2**31 - 1}, "d") == {"a": 2**31 - 1}
    with pytest.raises(DataError, match="'d'.*add up"):
        to_impacts({"a": 2**30, "b": 2**30}, "d")


def test_rounding_is_half_up_and_what_is_left_of_nothing_is_dropped() -> None:
    weights = {
        "a": 0,
        "b": -1,
        "c": 0.3,
        "d": 0.5,
        "e": 1.49,
        "f": 2.5,
        "g": np.float32(3.5),
        "h": np.int64(7),
        "i": -0.0,
        "j": True,
    }
    assert to_impacts(weights, "d") == {"d": 1, "e": 1, "f": 3, "g": 4, "h": 7, "j": 1}


@pytest.mark.parametrize(
    "weights",
    [
        [math.nan], [1, math.inf], [-math.inf], [2.0**31], [1, 2**31], [2**63], [10**400], ["3"], [[1], [2]], [1j],
        [2**30, 2**30],
    ],
)  # fmt: skip
def test_many_weights_are_left_to_the_check_of_one_where_something_is_wrong(tmp_path: Path, weights: list[Any]) -> None:
    good = documents({"a": 1})
    with pytest.raises(DataError, match="document 'bad'"):
        take_documents([*good, {"docno": "bad", "toks": dict(zip("xyz", weights))}], Spool(tmp_path))


@given(st.lists(st.lists(st.floats(-1e9, 1e6) | st.integers(-(10**12), 10**6))))
def test_many_weights_are_rounded_like_one(rows: list[list[float]]) -> None:
    weights = np.array([weight for row in rows for weight in row])
    impacts = to_impact_array(weights, np.array([len(row) for row in rows], dtype=np.int64))
    assert impacts is not None
    expected = [max(0, math.floor(weight + 0.5)) for row in rows for weight in row]
    assert np.maximum(impacts, 0).tolist() == expected


def test_weights_that_numpy_does_not_know_are_rounded_too(spool: Spool) -> None:
    take_documents([GOOD, {"docno": "e", "toks": {"b": Fraction(5, 2), "a": -(2**70), "c": True}}], spool)
    assert contents(spool)[1] == (("e",), {"b": 3, "c": 1})
    assert spool.fractional


@given(st.dictionaries(st.text(min_size=1, max_size=15), st.floats(-10, 1e6) | st.integers(-10, 10**6)))
def test_impacts_are_positive_ints_within_half_of_the_weight(weights: dict[str, float]) -> None:
    impacts = to_impacts(weights, "d")
    assert all(type(impact) is int and impact >= 1 and abs(impact - weights[term]) <= 0.5 for term, impact in impacts.items())
    assert all(term in impacts for term, weight in weights.items() if weight >= 0.5)


@pytest.mark.parametrize("term", ["", "x" * 61, "é" * 31, "🙂" * 16, "a\ud83d", 3, None, b"a"])
def test_term_that_terrier_cannot_hold_is_refused(term: Any) -> None:
    with pytest.raises(DataError, match="'d7'.*cannot index the term"):
        to_impacts({term: 1}, "d7")


def test_fractional_weights_are_noticed(spool: Spool) -> None:
    take_documents([GOOD, {"docno": "e", "toks": {"a": 1.5}}], spool)
    assert spool.fractional


def test_vectors_of_two_encoders_are_refused_and_both_are_named(spool: Spool) -> None:
    one, other = Contract(weights="1", base_model="lm-one"), Contract(weights="2", base_model="lm-two")
    with pytest.raises(ContractError, match="'d3'.*lm-two.*lm-one"):
        take_documents(({"docno": f"d{i}", "toks": ImpactVector({"a": 1}, one if i < 3 else other)} for i in range(5)), spool)


def test_contract_of_comparable_and_unknown_vectors_is_kept(spool: Spool) -> None:
    contract = Contract(weights="1", document_length=64)
    vectors = [{"a": 1}, ImpactVector({"a": 1}, contract), ImpactVector({}, contract.replace(document_length=512))]
    take_documents(({"docno": f"d{i}", "toks": toks} for i, toks in enumerate(vectors)), spool)
    assert spool.encoder.contract == contract


def test_metadata_fields_are_kept_and_measured(tmp_path: Path) -> None:
    spool = Spool(tmp_path, fields=["docno", "url"])
    take_documents([{**GOOD, "url": "u" * 100, "text": "not kept"}], spool)
    assert contents(spool) == [(("d", "u" * 100), {"a": 1})]
    assert {name: length.units for name, length in spool.lengths.items()} == {"docno": 20, "url": 100}


@pytest.mark.parametrize("url", [None, 3, "\ud800"])
def test_metadata_field_that_is_no_text_is_refused(tmp_path: Path, url: Any) -> None:
    with pytest.raises(DataError, match="'d'.*'url'"):
        take_documents([{**GOOD, "url": url}], Spool(tmp_path, fields=["url"]))


def test_absent_terms_of_a_table_are_absent(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "i").index(
        [{"docno": "x", "toks": {"a": 1, "b": None}}, {"docno": "y", "toks": {"a": None, "b": 2}}]
    )
    assert list(index.get_corpus_iter()) == [{"docno": "x", "toks": {"a": 1}}, {"docno": "y", "toks": {"b": 2}}]
