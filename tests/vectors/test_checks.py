"""Checks that vectors come from one encoder; the other checks are tested where users meet them."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest

from pyterrier_csplade import Contract, ContractError, ImpactVector
from pyterrier_csplade.vectors import OneEncoder, check_contracts

ONE, OTHER = (Contract(weights=name, base_model=f"lm-{name}") for name in ("one", "two"))


def test_vectors_of_unknown_origin_pass_and_the_first_known_encoder_counts() -> None:
    encoder = OneEncoder()
    for number, vector in enumerate([{"a": 1}, ImpactVector({}, ONE), None, ImpactVector({}, ONE.replace(query_length=9))]):
        encoder.observe(vector, f"document d{number}")
    assert encoder.contract is ONE
    with pytest.raises(ContractError, match=r"document d7 was encoded by lm-two \(.*, document d1 by lm-one \(.*: encode both"):
        encoder.observe(ImpactVector({}, OTHER), "document d7")


def test_another_scale_is_refused_unless_it_is_allowed() -> None:
    vector = ImpactVector({}, ONE.replace(impact_scale=7))
    OneEncoder(ONE, "the index", any_scale=True).observe(vector, "query q")
    with pytest.raises(ContractError, match="query q has impacts of scale 7, the index of 100: make all impacts"):
        OneEncoder(ONE, "the index").observe(vector, "query q")


def test_queries_of_another_scale_are_warned_of_once() -> None:
    vectors = [ImpactVector({"a": 1}, ONE.replace(impact_scale=7, query_length=length)) for length in (8, 9)]
    queries = pd.DataFrame({"qid": ["1", "2"], "query_toks": pd.Series(vectors, dtype=object)})
    with pytest.warns(UserWarning, match="impacts of index i have scale 100, the model of the queries has scale 7") as found:
        check_contracts(queries, ONE, "index i")
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_contracts(queries, None, "an index of unknown origin")
    with pytest.raises(ContractError, match=r"query '1' was encoded by lm-one .*, the documents of index i by lm-two"):
        check_contracts(queries, OTHER, "index i")


def test_vectors_of_a_query_table_are_queries_of_its_documents_only() -> None:
    table = ImpactVector({"a": 1}, ONE.replace(weights="table", queries_for=ONE.fingerprint))
    OneEncoder(ONE, "the index", queries=True).observe(table, "query q")
    with pytest.raises(ContractError, match=r"query q was encoded by a query table for lm-one .*, the index by lm-two"):
        OneEncoder(OTHER, "the index", queries=True).observe(table, "query q")
    for encoder in (OneEncoder(), OneEncoder(ONE, "the index")):
        with pytest.raises(ContractError, match=r"document d was made by a query table .*: it makes vectors of queries"):
            encoder.observe(table, "document d")
    queries = pd.DataFrame({"qid": ["1"], "query_toks": pd.Series([table], dtype=object)})
    check_contracts(queries, ONE, "an index")
