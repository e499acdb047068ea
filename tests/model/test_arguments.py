"""What is checked before a model is loaded: arguments, queries that are no text, names of runs; and places of warnings."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import (
    CSPLADE,
    Contract,
    ContractError,
    DataError,
    PruneToks,
    Quantizer,
    export_sentence_transformers,
)
from pyterrier_csplade.images import TransformersFeatures
from pyterrier_csplade.vectors import MatrixVectors, checked_pieces, to_vectors
from support.models import language_model, tokenizer


@pytest.mark.parametrize(
    "argument",
    [
        {"variant": "bi"}, {"quantization": "int4"}, {"head": "fast"}, {"dtype": "float33"}, {"dtype": "int8"},
        {"device": "gpu:first"}, {"batch_size": 0}, {"batch_size": 2.5}, {"batch_size": True}, {"text_field": ""},
    ],
)  # fmt: skip
def test_arguments_of_a_model_are_checked_when_it_is_made(argument: dict[str, Any]) -> None:
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f"{name} must .*found {value!r}"):
        CSPLADE("some/model", **argument)


@pytest.mark.parametrize("adapter", [None, "some/adapter"])
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_directory_has_no_revisions(tmp_path: Path, kind: str, adapter: str | None) -> None:
    """It was ignored."""
    model = tmp_path / "m.gguf" if kind == "file" else tmp_path
    (tmp_path / "m.gguf").touch()
    match = f"revision='v2' names a version of a hub model, but {re.escape(str(model))} is a {kind}: leave revision out"
    with pytest.raises(ContractError, match=match):
        CSPLADE(model, adapter=adapter, revision="v2")
    with pytest.raises(ContractError, match=match):
        TransformersFeatures(model, revision="v2")
    with pytest.raises(ContractError, match="revision='v2' names"):
        CSPLADE.tiny(revision="v2")


@pytest.mark.parametrize(
    "argument",
    [
        {"top_k": 2.5}, {"top_k": True}, {"top_k": "9"}, {"min_weight": "1"}, {"min_weight": None}, {"batch_size": 1.5},
        {"batch_size": -1}, {"text_field": ""}, {"text_field": 3}, {"quantizer": 100},
    ],
)  # fmt: skip
def test_settings_of_an_encoder_are_checked_when_they_are_given_and_when_they_are_set(
    unloaded: CSPLADE, argument: dict[str, Any]
) -> None:
    ((name, value),) = argument.items()
    encoder = unloaded.doc_encoder()
    for refused in (lambda: unloaded.doc_encoder(**argument), lambda: encoder.set_parameter(name, value)):
        with pytest.raises(ValueError, match=f"{name} must .*found {value!r}"):
            refused()
    assert encoder == unloaded.doc_encoder()


@pytest.mark.parametrize("argument", [{"batch_size": 0}, {"batch_size": -3}, {"batch_size": 2.5}, {"text_field": ""}])
def test_settings_of_a_model_are_checked_when_they_are_set(csplade: CSPLADE, argument: dict[str, Any]) -> None:
    """A model with batches of 0 encoded nothing of a stream."""
    ((name, value),) = argument.items()
    before = getattr(csplade, name)
    with pytest.raises(ValueError, match=f"{name} must .*found {value!r}"):
        setattr(csplade, name, value)
    assert getattr(csplade, name) == before
    assert len(list(csplade.query_encoder()([{"qid": "1", "query": "dogs"}]))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, found 0"),
        ({"batch_size": "x"}, "batch_size must be a whole number of at least 1, found 'x'"),
        ({"quantizer": 100}, "quantizer must be a Quantizer, or None for float weights, found 100"),
        ({"quantizer": "default"}, "quantizer must be a Quantizer, or None for float weights, found 'default'"),
    ],
)
def test_arguments_of_encoding_are_checked(csplade: CSPLADE, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        csplade.encode_docs(["dogs"], **arguments)


def test_sequences_of_any_kind_are_names_and_texts(csplade: CSPLADE) -> None:
    expected = csplade.encode_docs(["dogs", "cats"])
    texts: Any = pd.Series(["dogs", "cats"], index=[7, 8])
    kinds: list[Any] = [np.array(["a", "b"]), pd.Series(["a", "b"], index=[5, 6])]
    for names in kinds:
        assert (csplade.encode_docs(texts, names=names) != expected).nnz == 0
    with pytest.raises(ValueError, match="role must be one of query, document, found 'text'"):
        csplade.tokenize(["dogs"], "text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 1 row of .* terms, found dict"):
        csplade.decode({"dogs": 1.0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", ContractError, "the name of the model or adapter is empty"),
        ("FILE", FileNotFoundError, "a.json is a file: name the directory of the model or adapter"),
        ("no such/model/here", FileNotFoundError, "there is no directory no such/model/here"),
        ("no model", FileNotFoundError, "there is no directory no model"),
    ],
)
def test_names_that_no_model_has(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    (tmp_path / "a.json").write_text("{}")
    name = name.replace("FILE", str(tmp_path / "a.json"))
    with pytest.raises(error, match=message):
        CSPLADE(name)
    with pytest.raises(error, match=message):
        CSPLADE("some/model", adapter=name)


@pytest.mark.parametrize("quantization", ["int8", "nf4", "int8-weight-only"])
def test_a_quantised_model_is_not_exported(quantization: Any, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=f"a model loaded with quantization='{quantization}' cannot be exported"):
        export_sentence_transformers(CSPLADE("some/model", quantization=quantization), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_contract_is_an_object() -> None:
    with pytest.raises(TypeError, match="contract must be a Contract, found dict: use Contract.from_dict"):
        CSPLADE("some/model", contract={"variant": "echo"})  # type: ignore[arg-type]


def test_parts_of_encoded_documents_are_checked(csplade: CSPLADE) -> None:
    matrix = csplade.encode_docs(["dogs", "cats"], quantizer=Quantizer())
    with pytest.raises(TypeError, match="docnos must be a list of docnos, found one text, 'ab'"):
        MatrixVectors("ab", matrix, csplade.vocabulary, csplade.contract)
    with pytest.raises(TypeError, match="contract must be a Contract or None, found dict"):
        MatrixVectors(["a", "b"], matrix, csplade.vocabulary, {"variant": "causal"})  # type: ignore[arg-type]


def test_a_parameter_is_read_as_it_was_set(unloaded: CSPLADE) -> None:
    for make in (unloaded.doc_encoder, unloaded.query_encoder, unloaded.scorer):
        encoder = make()
        before = encoder.get_parameter("batch_size")
        encoder.set_parameter("batch_size", np.int64(8))
        assert encoder.get_parameter("batch_size") == encoder.model_batch_size == 8
        encoder.set_parameter("batch_size", before)
        assert before is None and encoder == make() and encoder.model_batch_size == unloaded.batch_size


def test_numbers_of_numpy_can_be_written_as_json(csplade: CSPLADE) -> None:
    encoder = csplade.doc_encoder(top_k=np.int64(20), min_weight=np.float32(0.5), quantizer=Quantizer(np.float32(20)))
    json.dumps([encoder.top_k, encoder.min_weight, encoder.quantizer.scale])
    json.dumps(encoder.vector_contract().to_dict())
    json.dumps(csplade.doc_encoder(quantizer=Quantizer(20)).vector_contract().to_dict())
    assert encoder([{"docno": "1", "text": "dogs and cats"}])[0]["toks"]


def test_pruning_checks_its_settings_when_it_is_used() -> None:
    prune = PruneToks(mass=0.9)
    prune.set_parameter("top_k", 1)
    records = [{"docno": "1", "toks": {"a": 2, "b": 1}}]
    vectors = MatrixVectors(["1"], csr_matrix([[2, 1]]), ["a", "b"])
    for use in (lambda: prune(records), lambda: prune(pd.DataFrame(records)), lambda: prune.vectors(vectors)):
        with pytest.raises(ValueError, match="give one of mass, top_k and min_weight, found mass, top_k"):
            use()
    prune.set_parameter("mass", None)
    assert prune(records)[0]["toks"] == {"a": 2}


# ------------------------------------------------------------------------------------------------- matrices of strangers


@pytest.mark.parametrize("column", [-1, 3])
def test_a_matrix_with_columns_that_it_does_not_have_is_refused(column: int) -> None:
    matrix = csr_matrix(([1.0, 2.0], [0, 1], [0, 1, 2]), shape=(2, 3))
    matrix.indices[1] = column
    terms = ["a", "b", "c"]
    message = f"has an entry in column {column}: the matrix has columns 0 to 2"
    with pytest.raises(DataError, match=f"d2 {message}"):
        MatrixVectors(["d1", "d2"], matrix, terms)
    with pytest.raises(DataError, match=f"row 1 {message}"):
        to_vectors(matrix, terms)

    class Blocks:
        vocabulary, contract = terms, None

        def __len__(self) -> int:
            return 2

        def blocks(self) -> Any:
            yield ["d1", "d2"], matrix

    for encoded in (Blocks(), PruneToks(top_k=1).vectors(Blocks())):
        with pytest.raises(DataError, match=f"d2 {message}"):
            list(checked_pieces(encoded))


# ------------------------------------------------------------------------------------------------- no text of a query

LANGUAGE = [
    "applypipeline:off dogs^0.312 cats^0.100000",
    "applypipeline:off dogs",
    "dogs^0.2",
    "dogs^0.2 cats^0.3",
    "dogs^1.0E-4 zwölf^.5",
    "#combine(dogs cats)",
    "dogs cats #combine:0=0.1:wmodel=org.terrier.matching.models.dependence.pBiL(#1(dogs cats))",
    "#1(dogs cats)",
    "#uw8(dogs cats)",
    "dogs #syn(cat cats)",
    "#band(dogs cats)",
]
TEXTS = [
    "C#", "is C# (or F#) better", "x^2", "derivative of x^0.5", "2^0.5", "O(n log^1.5 n)", "dogs^2 cats", "re: hello", "a:b",
    "https://example.org/page#1(a)", "#hashtag", "#combine", "#1", "we are #1 (really)", "^_^",
    "what does applypipeline:off do",
]  # fmt: skip


@pytest.mark.parametrize("query", LANGUAGE)
def test_terriers_query_language_is_refused(unloaded: CSPLADE, query: str) -> None:
    records = [{"qid": "7", "query": query, "docno": "d", "text": "dogs"}]
    for transformer in (unloaded.query_encoder(), unloaded.scorer()):
        for inp in (records, pd.DataFrame(records)):
            with pytest.raises(DataError, match=r"query 7: .*query language.*pt\.rewrite\.reset\(\)"):
                transformer(inp)


def test_ordinary_text_is_encoded(csplade: CSPLADE) -> None:
    found = csplade.query_encoder()([{"qid": str(number), "query": query} for number, query in enumerate(TEXTS)])
    assert all(record["query_toks"] for record in found)


# -------------------------------------------------------------------------------------------------------- short names


def test_names_are_short_and_may_name_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = CSPLADE.tiny()
    assert str(tiny) == "CSPLADE(csplade-tiny)"
    assert str(tiny.query_encoder()) == "CSPLADE(csplade-tiny).query_encoder()"
    assert str(tiny.doc_encoder(top_k=9, quantizer=Quantizer(5))) == (
        "CSPLADE(csplade-tiny).doc_encoder(top_k=9, quantizer=Quantizer(scale=5.0))"
    )
    other = CSPLADE("org/model-8b", adapter="me/adapter", device="cuda:0", text_field="a/b")
    assert str(other) == "CSPLADE(model-8b, adapter=adapter, device='cuda-0', text_field='a-b')"
    assert str(CSPLADE((language_model(), tokenizer())).scorer()) == "CSPLADE(LlamaForCausalLM).scorer()"
    for named in (tiny, other, tiny.scorer(), other.doc_encoder(text_field='?|*"')):
        assert pt.io.ok_filename(str(named)) and len(str(named)) < 150
    assert repr(tiny) == "CSPLADE('csplade-tiny')" and CSPLADE("csplade-tiny") == tiny
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csplade-tiny").mkdir()
    with pytest.raises(FileNotFoundError, match="csplade-tiny contains no config.json"):
        CSPLADE("csplade-tiny")


def test_an_experiment_saves_runs_without_names(csplade: CSPLADE, qrels: pd.DataFrame, tmp_path: Path) -> None:
    inp = pd.DataFrame([{"qid": "q1", "query": "inverted index", "docno": docno, "text": docno} for docno in ("d1", "d2")])
    systems = [csplade.scorer(), csplade.scorer(batch_size=2)]
    pt.Experiment(systems, inp, qrels, ["map"], save_dir=str(tmp_path))
    assert {f"{system}.res.gz" for system in systems} <= {path.name for path in tmp_path.iterdir()}


# ------------------------------------------------------------------------------------------------- places of warnings


@pytest.mark.parametrize("windows", [1, 2])
def test_warnings_name_the_line_of_the_caller(windows: int) -> None:
    csplade = CSPLADE((language_model(), tokenizer()), contract=Contract(document_length=5), batch_size=1)
    documents = [{"docno": str(number), "text": "a text of more than five tokens"} for number in range(32 * windows)]
    uses: list[Callable[[], Any]] = [
        lambda: csplade.encode_docs([documents[0]["text"]]),
        lambda: csplade.doc_encoder()(pd.DataFrame(documents)),
        lambda: list(csplade.doc_encoder().transform_iter(documents)),
        lambda: (csplade.doc_encoder() >> pt.Transformer.identity())(documents),
    ]
    for use in uses:
        csplade.truncated["document"] = 0
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            use()
        assert [(w.filename, w.lineno) for w in found if "truncated" in str(w.message)] == [
            (__file__, use.__code__.co_firstlineno)
        ]
