"""What the vocabulary stage refuses: one clear error each, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from inside.training import BytePairs, read_tensors
from pyterrier_csplade import ContractError, CspladeError
from pyterrier_csplade.training import VocabularyConfig, make_vocabulary
from support.encodings import SENTENCES
from support.vocabularies import save_corpus, save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "model", architecture="llama")


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def refused(tmp_path: Path, model: Path | str, message: str, **settings: Any) -> None:
    values = {"kind": "cut", "corpus": str(save_corpus(tmp_path / "docs.jsonl")), "measured_documents": 0, **settings}
    with pytest.raises(CspladeError, match=message):
        make_vocabulary(VocabularyConfig(model=str(model), output=str(tmp_path / "new"), **values))
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))


def edit(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **values}))


def test_a_corpus_without_text(tmp_path: Path, model: Path) -> None:
    refused(tmp_path, model, "the corpus has no text", corpus=str(save_corpus(tmp_path / "empty.jsonl", ["", " "])))


@pytest.mark.parametrize(
    ("tied", "message"),
    [
        (True, "config.json ties the LM head .*, but lm_head.weight differs"),
        (False, "has tie_word_embeddings false, but .* no LM head"),
    ],
)
def test_tied_and_untied_files(tmp_path: Path, model: Path, tied: bool, message: str) -> None:
    if tied:
        edit(model / "config.json", tie_word_embeddings=True)
    else:
        tensors = load_file(model / "model.safetensors")
        save_file({name: values for name, values in tensors.items() if name != "lm_head.weight"}, model / "model.safetensors")
    refused(tmp_path, model, message)


def test_a_copy_of_a_tied_head_is_dropped(tmp_path: Path, model: Path) -> None:
    edit(model / "config.json", tie_word_embeddings=True)
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    corpus = str(save_corpus(tmp_path / "docs.jsonl"))
    new = make_vocabulary(
        VocabularyConfig(model=str(model), output=str(tmp_path / "new"), kind="cut", corpus=corpus, measured_documents=0)
    )
    assert "lm_head.weight" not in load_file(new / "model.safetensors")


def test_rows_and_ids_that_do_not_fit(tmp_path: Path, model: Path) -> None:
    edit(model / "config.json", eos_token_id=10**6)
    refused(tmp_path, model, "config.json: eos_token_id is 1000000, but the tokenizer has no token of this id")
    edit(model / "config.json", eos_token_id=1, vocab_size=700)
    refused(tmp_path, model, "has .* rows, but config.json a vocab_size of 700")


def test_a_model_without_a_tokenizer(tmp_path: Path, model: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()
    refused(tmp_path, model, "tokenizer")


def test_what_is_no_base_model(tmp_path: Path, model: Path) -> None:
    edit(model / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    refused(tmp_path, model, "is quantised")
    (model / "csplade_config.json").write_text("{}")
    refused(tmp_path, model, "is a trained encoder, and its vocabulary is part of its contract")
    (model / "adapter_config.json").write_text("{}")
    refused(tmp_path, model, "is an adapter: merge it")


def test_damaged_weights(tmp_path: Path, model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path, model, "is damaged .*: copy it again")


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), "its tokenizer is WordLevel: only byte-pair encodings"),
        (models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0), "its tokenizer is Unigram"),
        (models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.1), "has dropout 0.1"),
        (models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"), "has end_of_word_suffix '</w>'"),
        (models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]), "neither byte-level nor falls back to tokens of all 256 bytes"),
    ],
)
def test_other_kinds_of_tokenizers(tokenizer: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        BytePairs(Tokenizer(tokenizer), "m")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cut"}, "kind 'cut' needs a corpus"),
        ({"kind": "corpus", "corpus": "c"}, "set size for kind 'corpus'"),
        ({"kind": "cut", "corpus": "c", "size": 1000}, "set size for kind 'corpus', and only for this kind"),
        ({"kind": "corpus", "corpus": "c", "size": 300_001}, "size must be from 257 to 300,000"),
        ({"kind": "cut", "corpus": "c", "rows": "random"}, "rows can only be set for kind 'corpus'"),
        ({"kind": "lower", "normalise": []}, "kind 'lower' normalises"),
        ({"kind": "lower", "min_documents": 2}, "kind 'lower' removes no tokens"),
        ({"kind": "upper"}, "expected one of 'lower', 'cut', 'corpus'"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CspladeError, match=message):
        VocabularyConfig(model="m", output="o", **settings)


def test_shards_stay_shards(tmp_path: Path, saved: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    lm.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for file in saved.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "shards")
    files = sorted(file.name for file in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3
    corpus = str(save_corpus(tmp_path / "docs.jsonl", SENTENCES[:2]))
    new = make_vocabulary(
        VocabularyConfig(
            model=str(tmp_path / "shards"), output=str(tmp_path / "new"), kind="cut", corpus=corpus, measured_documents=2
        )
    )
    assert sorted(file.name for file in new.glob("*.safetensors")) == files
    made = AutoModelForCausalLM.from_pretrained(new, dtype="auto")
    assert made.dtype == torch.bfloat16
    tokenizer, before = AutoTokenizer.from_pretrained(new), AutoTokenizer.from_pretrained(saved)
    ids = before.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(made.get_parameter(name), lm.get_parameter(name)[ids])
    stored = read_tensors(sorted(new.glob("*.safetensors")))
    index = json.loads((new / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.size for tensor in stored.values())
    assert index["weight_map"] == {name: tensor.file.name for name, tensor in stored.items()}
