from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyterrier_csplade import Contract, ContractError
from pyterrier_csplade.vectors import CONTRACT_FILE

SETTINGS: dict[str, Any] = {
    "variant": "echo",
    "query_prefix": "query: ",
    "document_prefix": "passage: ",
    "add_bos": True,
    "add_eos": True,
    "pool_special": True,
    "fold": "case+space",
    "query_length": 32,
    "document_length": 192,
    "logit_scale": 0.125,
    "temperature": 10.0,
    "impact_scale": 50.0,
    "base_model": "some/model",
    "base_revision": "main",
    "vocabulary_sha256": "v",
    "weights": "w",
    "training": {"steps": 3},
}


def test_the_file_gives_back_every_field(tmp_path: Path) -> None:
    contract = Contract(**SETTINGS)
    contract.save(tmp_path)
    assert Contract.load(tmp_path / CONTRACT_FILE) == contract
    assert json.loads((tmp_path / CONTRACT_FILE).read_text())["attention"] == "causal"


@pytest.mark.parametrize(
    "name",
    [
        "variant", "query_prefix", "document_prefix", "add_bos", "add_eos", "pool_special", "logit_scale", "weights",
        "vocabulary_sha256", "fold",
    ],
)  # fmt: skip
def test_fingerprint_changes_with_what_changes_a_vector(name: str) -> None:
    assert Contract(**{name: SETTINGS[name]}).fingerprint != Contract().fingerprint


@pytest.mark.parametrize("name", ["query_length", "document_length", "impact_scale", "temperature", "base_model", "training"])
def test_fingerprint_keeps_with_what_does_not(name: str) -> None:
    assert Contract(**{name: SETTINGS[name]}).fingerprint == Contract().fingerprint


def test_fingerprints_of_older_indexes_hold() -> None:
    assert (
        Contract(pool_special=False).fingerprint
        == hashlib.sha256(json.dumps(["", "", "causal", "", "", False, False, 1.0]).encode()).hexdigest()
    )


def test_defaults_are_those_of_a_model_without_a_contract() -> None:
    contract = Contract()
    assert (contract.variant, contract.query_prefix, contract.document_prefix) == ("causal", "", "")
    assert (contract.add_bos, contract.add_eos, contract.logit_scale) == (False, False, 1.0)
    assert (contract.query_length, contract.document_length) == (64, 512)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "sideways"}, "variant must be one of"),
        ({"logit_scale": 0}, "logit_scale must be positive"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"attention": "causal", "variant": "bidirectional"}, "contradicts"),
        ({"format": 2}, "newer format"),
    ],
)
def test_refuses_a_file_that_is_wrong(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(values))
    with pytest.raises(ContractError, match=message):
        Contract.load(tmp_path / CONTRACT_FILE)


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_refuses_a_file_that_is_no_object(text: str, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text(text)
    with pytest.raises(ContractError, match=CONTRACT_FILE):
        Contract.load(tmp_path / CONTRACT_FILE)


FLAGS: list[Any] = ["false", 0, None, []]
STRINGS: list[Any] = [3, None, []]
NUMBERS: list[Any] = ["1", True, 0, math.inf, math.nan, 10**400, None]
LENGTHS: list[Any] = ["64", True, 1.5, 0, -1, 10**400, None]
BAD: list[tuple[str, Any]] = [
    *((name, value) for name in ("add_bos", "add_eos", "pool_special") for value in FLAGS),
    *((name, value) for name in ("query_length", "document_length") for value in LENGTHS),
    *((name, value) for name in ("logit_scale", "temperature", "impact_scale") for value in NUMBERS),
    *((name, value) for name in ("query_prefix", "vocabulary_sha256", "weights", "other_weights") for value in STRINGS),
    ("document_prefix", "\ud800"),
    ("base_model", 3),
    ("training", []),
    ("variant", []),
    ("probes", [{"1": "x"}]),
    ("attention", {}),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_every_field_has_a_type(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text("{}")
    with pytest.raises(ContractError, match=f"{CONTRACT_FILE}.*{'prefix' if 'prefix' in name else name}"):
        Contract.from_dict({name: value}, source=str(tmp_path / CONTRACT_FILE))


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"training": ' + '{"a":' * 400 + "1" + "}" * 401, '{"query_length": ' + "9" * 5000 + "}", "\0", ""]
)
def test_nonsense_in_a_file_is_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text(text)
    with pytest.raises(ContractError, match=CONTRACT_FILE):
        Contract.load(tmp_path / CONTRACT_FILE)


def test_numbers_of_numpy_become_those_of_json() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of an overflow in float32
        contract = Contract(impact_scale=np.float32(20), query_length=np.int64(9))
    assert json.loads(json.dumps(contract.to_dict()))["impact_scale"] == 20 and type(contract.query_length) is int


def test_a_contract_of_version_0_1_0_matches_by_its_digest_with_a_warning_when_it_is_read() -> None:
    new = Contract(weights="2:new", other_weights="a" * 64)
    with pytest.warns(UserWarning, match=r"pt_meta\.json .* covers only some of the weights"):
        old = Contract.from_dict({"weights": "a" * 64}, source="pt_meta.json")
    assert new.matches(old) and old.matches(new) and old.matches(old)
    assert not new.matches(Contract(weights="2:other", other_weights="a" * 64))
    assert not new.matches(Contract()) and not new.matches(old.replace(add_bos=True)) and Contract().matches(Contract())


def test_a_query_table_answers_the_documents_that_it_names() -> None:
    documents = Contract(weights="2:new", other_weights="a" * 64, base_model="lm")
    table = documents.replace(weights="2:table", other_weights="", queries_for=documents.fingerprint)
    assert table.answers(documents) and not table.matches(documents) and table.fingerprint != documents.fingerprint
    assert documents.answers(documents) and not documents.answers(table)
    # Lengths and the impact scale change no fingerprint.
    assert table.answers(documents.replace(document_length=9, impact_scale=3))
    assert not table.answers(documents.replace(weights="2:trained again"))
    assert not table.replace(queries_for="").answers(documents)
    # A model of 0.1.0 that was loaded quantised has its older digest first.
    assert table.answers(documents.replace(weights="a" * 64, other_weights="2:new"))
    # The vectors and the documents are both folded, or neither is; the table may be older than the folding.
    folded = documents.replace(fold="case+space")
    assert table.replace(fold="case+space").answers(folded) and not table.answers(folded)
    assert table.replace(fold="case+space", queries_for=folded.fingerprint).answers(folded)
    assert not table.replace(fold="case+space").answers(documents)
    pictures = documents.replace(documents_for=documents.fingerprint, weights="2:head")
    assert table.answers(pictures) and not table.replace(fold="case+space").answers(pictures)
    assert table.replace(fold="case+space").answers(pictures.replace(fold="case+space"))
    assert table.summary.startswith("a query table for lm (fingerprint ")
    assert table != table.replace(queries_for="other") and not table.matches(table.replace(queries_for="other"))


def test_the_field_of_query_tables_is_in_their_files_only(tmp_path: Path) -> None:
    assert "queries_for" not in Contract().to_dict()
    table = Contract(queries_for="f")
    assert Contract.from_dict(table.to_dict()) == table
    with pytest.raises(ContractError, match="queries_for must be a string"):
        Contract(queries_for=3)  # type: ignore[arg-type]
