"""What a base model's tokenizer and architecture say, and files that are damaged or crafted."""

from __future__ import annotations

import copy
import io
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from pyterrier_csplade import CSPLADE, Contract, ContractError, DataError, export_sentence_transformers
from support.models import TEXTS, language_model, tokenizer
from support.texts import dense


def with_added_token() -> CSPLADE:
    tokens, lm = copy.deepcopy(tokenizer()), language_model()
    tokens.add_tokens(["remdesivir"])
    lm.resize_token_embeddings(len(tokens))
    return CSPLADE((lm, tokens), contract=Contract(query_length=64, document_length=64))


def test_added_tokens_that_are_not_special_are_terms_and_pooled(tmp_path: Path) -> None:
    csplade = with_added_token()
    assert "remdesivir" in csplade.vocabulary and csplade.encode_queries(["remdesivir"]).nnz > 0
    csplade.save(tmp_path)
    assert CSPLADE(tmp_path).contract == csplade.contract


def test_added_tokens_are_pooled_as_sentence_transformers_does(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    csplade = with_added_token()
    export_sentence_transformers(csplade, tmp_path)
    texts = ["treated with remdesivir in hospitals", "dogs and cats"]
    exported = sentence_transformers.SparseEncoder(str(tmp_path), device="cpu").encode_document(texts)
    expected = dense(csplade.encode_docs(texts))
    found = exported.to_dense().numpy()[:, csplade.vocabulary.token_ids]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_vocabulary_that_version_0_1_0_chose_is_kept() -> None:
    tokens, lm = copy.deepcopy(tokenizer()), language_model()
    older = CSPLADE((lm, tokens)).contract.vocabulary_sha256
    tokens.add_tokens(["remdesivir"])
    lm.resize_token_embeddings(len(tokens))
    csplade = CSPLADE((lm, tokens), contract=Contract(vocabulary_sha256=older))
    assert "remdesivir" not in csplade.vocabulary and csplade.encode_queries(["remdesivir"]).nnz == 0


def test_tokens_without_a_row_are_named_and_padding_needs_none() -> None:
    tokens = copy.deepcopy(tokenizer())
    tokens.add_special_tokens({"pad_token": "[PAD]"})
    csplade = CSPLADE((language_model(), tokens))
    expected = dense(CSPLADE((language_model(), tokenizer())).encode_docs(TEXTS))
    np.testing.assert_allclose(dense(csplade.encode_docs(TEXTS)), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match=r"document d7 contains the token '\[PAD\]', .*no row in the model"):
        csplade.encode_docs(["good", "a [PAD] b"], names=["document d6", "document d7"])


def longrope() -> Any:
    """A model that takes other rotations for texts of more than 64 tokens."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [5.0] * 4, "rope_theta": 10000.0}
    rope |= {"original_max_position_embeddings": 64}
    return language_model("phi3", rope_parameters=rope, original_max_position_embeddings=64, max_position_embeddings=512)


@pytest.mark.parametrize("variant", ["causal", "echo"])
def test_longrope_rotates_each_text_by_its_own_length(variant: Any) -> None:
    csplade = CSPLADE((longrope(), tokenizer()), variant=variant)
    texts = ["dogs and cats", " ".join(TEXTS)[:300], "an inverted index"]
    alone = np.vstack([dense(csplade.encode_docs([text])) for text in texts])
    np.testing.assert_allclose(dense(csplade.encode_docs(texts)), alone, rtol=1e-5, atol=1e-5)


def test_threads_do_not_switch_the_rotations_of_longrope_for_each_other() -> None:
    """The model keeps one table of rotations, which it replaces at the start of each pass."""
    lm = longrope()
    csplade = CSPLADE((lm, tokenizer()))
    texts = ["dogs and cats", " ".join(TEXTS)[:300]]
    expected = [dense(csplade.encode_docs([text])) for text in texts]
    passes: list[int] = []
    at_once: list[int] = []

    def begin(*_: Any) -> None:
        passes.append(1)
        at_once.append(len(passes))
        time.sleep(0.005)

    lm.base_model.register_forward_pre_hook(begin)
    lm.base_model.register_forward_hook(lambda *_: passes.clear())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: dense(csplade.encode_docs([texts[number % 2]])), range(16)))
    assert max(at_once) == 1
    for number, vectors in enumerate(found):
        np.testing.assert_allclose(vectors, expected[number % 2], rtol=1e-5, atol=1e-5)


def test_mpt_has_its_positions_in_another_setting() -> None:
    config = transformers.MptConfig(d_model=32, n_heads=4, n_layers=1, vocab_size=len(tokenizer()), max_seq_len=64)
    csplade = CSPLADE((transformers.AutoModelForCausalLM.from_config(config).eval(), tokenizer()))
    assert csplade.contract.document_length == 64
    assert csplade.encode_docs([" ".join(TEXTS)]).nnz > 0


def test_a_composite_model_attends_both_ways() -> None:
    text = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
        "head_dim": 8, "vocab_size": len(tokenizer()), "max_position_embeddings": 128, "initializer_range": 0.3,
    }  # fmt: skip
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision | {"patch_size": 14})
    lm = transformers.AutoModelForCausalLM.from_config(config).eval()
    both = dense(CSPLADE((lm, tokenizer()), variant="bidirectional").encode_docs(TEXTS))
    causal = dense(CSPLADE((lm, tokenizer()), variant="causal").encode_docs(TEXTS))
    assert not np.allclose(both, causal, atol=1e-3)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (
            {"query_prefix": "a prefix of more words than there is room for ", "query_length": 8},
            "query_length of 8 tokens",
        ),
        ({"document_prefix": "a prefix of more words than there is ", "document_length": 8}, "document_length of 8 tokens"),
        ({"add_bos": True, "add_eos": True, "query_length": 2}, "query_length of 2 tokens leaves no room"),
        ({"add_eos": True, "document_length": 1}, "document_length of 1 tokens leaves no room"),
    ],
)
def test_a_contract_that_leaves_no_room_for_a_text_is_refused(contract: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        CSPLADE((language_model(), tokenizer()), contract=Contract(**contract)).encode_queries(["a"])


@pytest.mark.parametrize(("flag", "token"), [("add_bos", "bos_token"), ("add_eos", "eos_token")])
def test_a_contract_that_needs_a_token_the_tokenizer_lacks_is_refused(flag: str, token: str) -> None:
    tokens = copy.deepcopy(tokenizer())
    setattr(tokens, token, None)
    with pytest.raises(ContractError, match=f"{flag}=True, but the tokenizer has no {token}"):
        CSPLADE((language_model(), tokens), contract=Contract().replace(**{flag: True})).encode_queries(["a"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strange") / "saved"
    CSPLADE((language_model(), tokenizer())).save(path)
    return path


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_checkpoint_is_never_run_whatever_is_answered(
    file: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Path(shutil.copytree(saved, tmp_path / "checkpoint"))
    auto_map = {
        name: f"code.{name}" if name != "AutoTokenizer" else ["code.Tokenizer", None]
        for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    }
    settings = json.loads((checkpoint / file).read_text())
    own = {"model_type": "unheard_of"} if file == "config.json" else {"tokenizer_class": "UnheardOf"}
    (checkpoint / file).write_text(json.dumps(settings | own | {"auto_map": auto_map}))
    (checkpoint / "code.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    try:
        CSPLADE(checkpoint).encode_docs(["a"])
    except ContractError as error:
        assert "never run" in str(error)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      "),
        ("model.safetensors", b""),
        ("model.safetensors", None),
        ("config.json", b"[" * 100_000),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "llama", "hidden_size": "x"}'),
        ("tokenizer.json", b'{"model": 3}'),
        ("tokenizer_config.json", b"[" * 100_000),
        ("csplade_config.json", b'{"query_length": ' + b"9" * 5000 + b"}"),
    ],
)
def test_a_damaged_file_is_an_error_of_this_package(file: str, content: bytes | None, saved: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(saved, tmp_path / "checkpoint"))
    path = checkpoint / file
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    with pytest.raises(ContractError, match=r"checkpoint.*(copy|whole|there|correct|check)"):
        CSPLADE(checkpoint).encode_docs(["a"])


@pytest.mark.parametrize(
    "name", ["csplade_config.json", "tokenizer_config.json", "generation_config.json", "other.safetensors"]
)
@pytest.mark.parametrize("kind", ["link", "circle", "directory"])
def test_files_that_are_not_there_are_not_read_as_missing(tmp_path: Path, name: str, kind: str) -> None:
    """A model without its contract was loaded as a causal one."""
    CSPLADE((language_model(), tokenizer()), variant="echo").save(tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(name if kind == "circle" else "../blobs/3f")
    with pytest.raises(FileNotFoundError, match=f"{name} is .*: copy the model again, with the files to which its links point"):
        CSPLADE(tmp_path)


def test_a_model_without_weights_in_memory_is_refused() -> None:
    with pytest.raises(ContractError, match="its weights are not in memory"):
        CSPLADE((language_model().to("meta"), tokenizer())).encode_docs(["dogs"])


def test_a_tokenizer_that_divides_texts_at_random_is_refused() -> None:
    """Two encodings of a text differed."""
    tokens = copy.deepcopy(tokenizer())
    tokens.backend_tokenizer.model.dropout = 0.5
    with pytest.raises(ContractError, match=r"leaves out merges at random \(BPE dropout of 0.5\)"):
        CSPLADE((language_model(), tokens)).encode_docs(["dogs"])
