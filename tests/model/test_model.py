from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inside.model import CONTRACT_FILE
from pyterrier_csplade import CSPLADE, Contract, ContractError, DataError
from support.models import TEXTS, language_model, tokenizer


@pytest.fixture(scope="module")
def csplade() -> CSPLADE:
    return CSPLADE((language_model(), tokenizer()), batch_size=2)


@pytest.fixture
def checkpoint(csplade: CSPLADE, tmp_path: Path) -> Path:
    csplade.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.todense())


# ---------------------------------------------------------------------------------------------------------- encoding


def test_encodes_in_the_order_of_the_texts_with_empty_rows_for_empty_texts(csplade: CSPLADE) -> None:
    texts = ["", *TEXTS, "  ", TEXTS[0]]
    matrix = csplade.encode_docs(texts)
    assert matrix.shape == (len(texts), len(csplade.vocabulary))
    assert matrix.dtype == np.float32
    assert matrix.data.min() > 0
    for row, text in enumerate(texts):
        np.testing.assert_allclose(dense(matrix[row]), dense(csplade.encode_docs([text])), rtol=1e-5, atol=1e-5)
    assert matrix[0].nnz == matrix[len(texts) - 2].nnz == 0


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_integer_impacts_do_not_depend_on_the_batch_size(csplade: CSPLADE, batch_size: int) -> None:
    def impacts(size: int) -> np.ndarray:
        return np.rint(dense(csplade.encode_docs(TEXTS * 3, batch_size=size)) * 100)

    assert np.mean(impacts(batch_size) == impacts(3)) >= 0.999


def test_no_texts_give_no_rows(csplade: CSPLADE) -> None:
    assert csplade.encode_queries([]).shape == (0, len(csplade.vocabulary))


@pytest.mark.parametrize("text", [None, float("nan"), 3, b"bytes", "a\ud800"])
def test_refuses_what_is_no_text_and_names_it(csplade: CSPLADE, text: Any) -> None:
    with pytest.raises(DataError, match="text 1"):
        csplade.encode_docs(["good", text])


def test_queries_and_documents_have_their_own_lengths_and_truncation_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    csplade = CSPLADE((language_model(), tokenizer()), contract=Contract(query_length=3, document_length=5))
    text = "one two three four five"
    ids = tokenizer()(text)["input_ids"]
    plain = CSPLADE((language_model(), tokenizer()))
    np.testing.assert_allclose(
        dense(csplade.encode_queries([text])), dense(plain.encode_docs([tokenizer().decode(ids[:3])])), rtol=1e-5, atol=1e-5
    )
    csplade.encode_docs([text, "a"])
    csplade.encode_docs([text])
    assert csplade.truncated == {"query": 1, "document": 2}
    assert len([w for w in recwarn if "was truncated" in str(w.message)]) == 2


def test_decode_lists_the_expansion_by_weight(csplade: CSPLADE) -> None:
    row = csplade.encode_docs([TEXTS[0]])
    expansion = csplade.decode(row)
    assert "<table><tr>" in expansion._repr_html_()  # type: ignore[attr-defined]  # bars in notebooks
    assert list(expansion.values()) == sorted(expansion.values(), reverse=True)
    assert expansion == {csplade.vocabulary[c]: pytest.approx(w) for c, w in zip(row.indices, row.data)}


def test_explanation_adds_up_to_the_score(csplade: CSPLADE) -> None:
    query, doc = csplade.encode_queries([TEXTS[3]]), csplade.encode_docs([TEXTS[1]])
    explanation = csplade.explain(TEXTS[3], TEXTS[1])
    assert math.fsum(explanation.values()) == pytest.approx((query @ doc.T).toarray().item(), rel=1e-5)
    assert set(explanation) == set(csplade.decode(query)) & set(csplade.decode(doc))
    assert list(explanation.values()) == sorted(explanation.values(), reverse=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("HIP error: hipErrorOutOfMemory, HIP out of memory"),
        RuntimeError("CUDA error: cudaErrorMemoryAllocation"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("UR error: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
        RuntimeError("RESOURCE_EXHAUSTED: Failed to allocate request"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_vectors_stay(
    csplade: CSPLADE, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dense(csplade.encode_docs(TEXTS, batch_size=1))
    longest = csplade.batch_encoder.padded(max(len(ids) for ids in csplade.backbone.tokenize(TEXTS, "document")[0]))
    sizes = limit_batches(csplade, longest, error, monkeypatch)
    np.testing.assert_allclose(dense(csplade.encode_docs(TEXTS, batch_size=6)), expected, rtol=1e-5, atol=1e-5)
    failed = [tokens for tokens in sizes if tokens > longest]
    assert len(failed) > 1 and all(later <= earlier / 2 for earlier, later in zip(failed, failed[1:]))
    assert longest // 2 < (csplade.batch_encoder.token_limit or 0) < 2 * longest
    first = len(sizes)
    csplade.encode_docs(TEXTS, batch_size=6)
    assert max(sizes[first:]) <= longest, "once memory has run out batches stay within the budget of tokens"


def test_one_text_that_does_not_fit_is_an_error_that_names_it(csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_batches(csplade, 0, torch.OutOfMemoryError("CUDA out of memory."), monkeypatch)
    with pytest.raises(DataError, match=r"text \d"):
        csplade.encode_docs(TEXTS)


def limit_batches(csplade: CSPLADE, largest: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the backbone fail with ``error`` above ``largest`` tokens; returns the list of the numbers that were tried."""
    sizes: list[int] = []
    hidden_states = csplade.backbone.hidden_states

    def limited(input_ids: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        sizes.append(input_ids.numel())
        if sizes[-1] > largest:
            raise error
        return hidden_states(input_ids, *args)

    monkeypatch.setattr(csplade.backbone, "hidden_states", limited)
    monkeypatch.setattr(csplade.batch_encoder, "token_limit", None)
    return sizes


def test_an_error_that_is_no_lack_of_memory_is_not_hidden(csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_batches(csplade, 0, RuntimeError("shapes do not match"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        csplade.encode_docs(TEXTS)


# ------------------------------------------------------------------------------------------- checkpoints and contracts


def test_a_saved_model_gives_the_same_vectors_and_contract(csplade: CSPLADE, checkpoint: Path) -> None:
    loaded = CSPLADE(checkpoint)
    np.testing.assert_allclose(dense(loaded.encode_docs(TEXTS)), dense(csplade.encode_docs(TEXTS)), rtol=1e-5, atol=1e-6)
    assert loaded.contract == csplade.contract
    assert loaded.contract.weights
    assert json.loads((checkpoint / CONTRACT_FILE).read_text())["vocabulary_sha256"] == csplade.vocabulary.sha256


@pytest.mark.parametrize("variant", ["causal", "echo", "bidirectional"])
def test_loading_follows_the_contract(variant: Any, tmp_path: Path) -> None:
    model = CSPLADE((language_model(), tokenizer()), variant=variant, contract=None)
    model.save(tmp_path)
    assert CSPLADE(tmp_path).contract.variant == variant
    np.testing.assert_allclose(
        dense(CSPLADE(tmp_path).encode_docs(TEXTS)), dense(model.encode_docs(TEXTS)), rtol=1e-5, atol=1e-6
    )


def test_an_argument_that_contradicts_the_contract_is_refused_at_once_naming_both(checkpoint: Path) -> None:
    with pytest.raises(ContractError, match="variant='echo'.*'causal'"):
        CSPLADE(checkpoint, variant="echo")
    with pytest.raises(ContractError, match="add_bos=True.*has False"):
        CSPLADE(checkpoint, contract=CSPLADE(checkpoint).contract.replace(add_bos=True))
    assert CSPLADE(checkpoint, variant="causal").contract.variant == "causal"


def test_weights_and_vocabulary_of_another_checkpoint_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    CSPLADE((language_model(seed=1), tokenizer())).save(tmp_path / "other")
    (checkpoint / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ContractError, match="weights.*mixed"):
        CSPLADE(checkpoint).encode_docs(["a"])


def test_a_checkpoint_that_lacks_a_tensor_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractError, match="missing keys.*up_proj"):
        CSPLADE(checkpoint).encode_docs(["a"])


def test_pickled_weights_are_never_read(checkpoint: Path, tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return __import__("os").system, (f"touch {tmp_path / 'canary'}",)

    (checkpoint / "model.safetensors").unlink()
    torch.save(Poison(), checkpoint / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        CSPLADE(checkpoint).encode_docs(["a"])
    assert not (tmp_path / "canary").exists()


def test_custom_code_of_a_checkpoint_is_never_run(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "unheard_of", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "code.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        CSPLADE(checkpoint).encode_docs(["a"])
    assert not (tmp_path / "canary").exists()


def test_digest_is_the_same_in_bfloat16(checkpoint: Path) -> None:
    assert CSPLADE(checkpoint, dtype="bfloat16").contract.weights == CSPLADE(checkpoint).contract.weights


def test_bfloat16_vectors_are_near(csplade: CSPLADE, checkpoint: Path) -> None:
    drift = dense(CSPLADE(checkpoint, dtype="bfloat16").encode_docs(TEXTS)) - dense(csplade.encode_docs(TEXTS))
    assert 0 < np.abs(drift).max() < 0.1


@pytest.mark.parametrize(("quantization", "similarity"), [("int8", 0.999), ("nf4", 0.95), ("int8-weight-only", 0.999)])
def test_quantised_vectors_are_near_and_keep_the_contract(quantization: Any, similarity: float, tmp_path: Path) -> None:
    if quantization == "int8-weight-only":
        pytest.importorskip("torchao")
    exact = CSPLADE((language_model(hidden_size=64, intermediate_size=128), tokenizer()))
    exact.save(tmp_path)
    quantised = CSPLADE(tmp_path, quantization=quantization)
    a, b = dense(exact.encode_docs(TEXTS)), dense(quantised.encode_docs(TEXTS))
    assert similarity < (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) < 1 - 1e-7
    assert quantised.contract.fingerprint == exact.contract.fingerprint
    with pytest.raises(ContractError, match="cannot be saved"):
        quantised.save(tmp_path / "copy")


def test_unknown_quantization_and_dtype_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ContractError, match="'int8', 'nf4' or 'int8-weight-only', found 'int2'"):
        CSPLADE(checkpoint, quantization="int2").encode_docs(["a"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bfloat16"):
        CSPLADE(checkpoint, dtype="float99").encode_docs(["a"])


# ----------------------------------------------------------------------------------------------------------- identity


def test_nothing_is_loaded_before_it_is_needed(checkpoint: Path) -> None:
    csplade = CSPLADE(checkpoint)
    repr(csplade), hash(csplade), csplade.doc_encoder(), csplade.query_encoder(), csplade.scorer()
    assert csplade._loaded is None


def test_repr_names_what_differs_from_the_defaults() -> None:
    assert repr(CSPLADE("some/model", variant="echo", batch_size=8)) == "CSPLADE('some/model', variant='echo', batch_size=8)"


def test_equality_follows_the_arguments() -> None:
    assert CSPLADE("some/model") == CSPLADE("some/model")
    assert hash(CSPLADE("some/model")) == hash(CSPLADE("some/model"))
    assert CSPLADE("some/model") != CSPLADE("some/model", variant="echo")


@pytest.mark.parametrize("argument", [{"adapter": "x"}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"device": "cpu"}])
def test_how_to_load_a_model_is_no_argument_for_a_loaded_one(argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(argument))}='.*is for loading, but this model is loaded already"):
        CSPLADE((language_model(), tokenizer()), **argument)


@pytest.mark.parametrize("argument", [{"top_k": 0}, {"top_k": -1}, {"min_weight": float("nan")}, {"min_weight": -0.1}])
def test_cuts_that_leave_nothing_are_refused(csplade: CSPLADE, argument: dict[str, Any]) -> None:
    for encode in (csplade.encode_docs, csplade.encode_queries):
        with pytest.raises(ValueError, match=next(iter(argument))):
            encode(TEXTS, **argument)


def test_too_few_names_lose_no_text(csplade: CSPLADE) -> None:
    with pytest.raises(ValueError, match="2 texts need 2 names, found 1"):
        csplade.encode_docs(["one", "two"], names=["a"])


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        CSPLADE("some/model", batch_size=0)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
