"""The phases after the vocabulary stage: full training, LoRA with the new rows, and adapters for the old vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pyterrier_csplade import CSPLADE, ConfigError, ContractError
from pyterrier_csplade.training import AdaptationConfig, LoraSettings, VocabularyConfig, adapt, dry_run, make_vocabulary
from support.encodings import SENTENCES
from support.vocabularies import save_corpus, save_model


def new_model(tmp_path: Path, architecture: str) -> Path:
    corpus = str(save_corpus(tmp_path / "docs.jsonl", SENTENCES[:3]))
    return make_vocabulary(
        VocabularyConfig(
            model=str(save_model(tmp_path / "base", architecture=architecture)), output=str(tmp_path / "vocabulary"),
            kind="cut", corpus=corpus, normalise=["nfkc", "lowercase"], measured_documents=0,
        )
    )  # fmt: skip


def settings(tmp_path: Path, model: Path, lora: LoraSettings | None, *, freeze: bool = False) -> AdaptationConfig:
    return AdaptationConfig(
        model=str(model), output=str(tmp_path / "adapted"), corpus=str(save_corpus(tmp_path / "many.jsonl", SENTENCES * 4)),
        learning_rate=1e-2, steps=2, batch_size=2, sequence_length=16, bf16=False, lora=lora, freeze_embeddings=freeze,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["llama", "llama-tied"])
def test_lora_trains_the_new_rows_and_keeps_ties(tmp_path: Path, architecture: str) -> None:
    model = new_model(tmp_path, architecture)
    config = settings(tmp_path, model, LoraSettings(rank=2, embeddings=True))
    trained = dict(dry_run(config).facts)["trained"]
    assert "LoRA of rank 2, embeddings and head" in trained
    adapt(config)
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "adapted" / "model.safetensors")
    assert before.keys() == after.keys() and ("lm_head.weight" in after) == (architecture == "llama")
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"):
        assert not torch.equal(before[name], after[name])
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert CSPLADE(tmp_path / "adapted", device="cpu").encode_docs(["The heart"]).nnz > 0


def test_rows_are_not_both_frozen_and_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lora: embeddings contradicts freeze_embeddings: leave one out"):
        settings(tmp_path, tmp_path, LoraSettings(embeddings=True), freeze=True)


@pytest.mark.parametrize(
    ("targets", "saved"), [(["embed_tokens"], None), (["lm_head"], None), (["q_proj"], ["lm_head"]), (["q_proj"], "tokenizer")]
)
def test_adapters_for_the_old_vocabulary_are_refused(tmp_path: Path, targets: list[str], saved: list[str] | str | None) -> None:
    model = new_model(tmp_path, "llama")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    own = saved if isinstance(saved, list) else None
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=targets, modules_to_save=own, task_type=TaskType.CAUSAL_LM))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    if saved == "tokenizer":
        AutoTokenizer.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "adapter")
    rows, before = base.config.vocab_size, len(AutoTokenizer.from_pretrained(model))
    with pytest.raises(ContractError, match=f"was made for a vocabulary of .* tokens, but the model has {before} rows"):
        CSPLADE(model, adapter=tmp_path / "adapter", device="cpu").encode_docs(["a"])
    assert rows > before


def test_adapters_of_other_layers_fit_a_cut_model(tmp_path: Path) -> None:
    model = new_model(tmp_path, "llama")
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        LoraConfig(r=2, target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM),
    )
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.warns(UserWarning, match="as its base model"):
        assert CSPLADE(model, adapter=tmp_path / "adapter", device="cpu").encode_docs(["heart"]).nnz > 0
