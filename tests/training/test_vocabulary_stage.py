"""The vocabulary stage: lower-casing and cutting, against the tokenizers and models before the change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import pyterrier_csplade.cli as command
from inside.training import BytePairs
from pyterrier_csplade import CSPLADE
from pyterrier_csplade.training import VocabularyConfig, load_config, make_vocabulary
from support.encodings import KINDS, SENTENCE_PIECE, SENTENCES, encoding
from support.models import language_model
from support.vocabularies import save_corpus, save_model


def stage(tmp_path: Path, model: Path, **settings: Any) -> Path:
    corpus = str(save_corpus(tmp_path / "docs.jsonl"))
    return make_vocabulary(
        VocabularyConfig(**{"model": str(model), "output": str(tmp_path / "new"), "corpus": corpus, "kind": "cut", **settings})
    )


def tokens_of(tokenizer: Any, text: str) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_loses_nothing(tmp_path: Path, kind: str) -> None:
    texts = [*SENTENCES[:2], SENTENCES[3]]
    model = save_model(tmp_path / "base", kind)
    new = stage(tmp_path, model, corpus=str(save_corpus(tmp_path / "few.jsonl", texts)))
    before, after = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(new)
    assert len(after) < len(before)
    old_ids = [before.convert_tokens_to_ids(token) for token in after.convert_ids_to_tokens(range(len(after)))]
    assert old_ids == sorted(old_ids)
    old_lm, new_lm = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (model, new))
    for text in texts:
        assert tokens_of(before, text) == tokens_of(after, text)
        with torch.no_grad():
            expected = old_lm(**before(text, return_tensors="pt")).logits[..., old_ids]
            found = new_lm(**after(text, return_tensors="pt")).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert after.decode(after("🙂 ￼ unseen")["input_ids"], skip_special_tokens=True).strip() == "🙂 ￼ unseen"
    assert CSPLADE(str(new), device="cpu").encode_docs([texts[0]]).nnz > 0


@pytest.mark.parametrize("kind", KINDS)
def test_lower_cased_texts_begin_with_a_space(tmp_path: Path, kind: str) -> None:
    model = save_model(tmp_path / "base", kind)
    new = stage(tmp_path, model, kind="lower")
    before, after = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(new)
    start = "" if kind == "llama2" else " "
    for text, normal in (("Heart RATE 120", "heart rate 120"), ("CAFÉ ﬁnal ①", "café final 1"), (" the Heart", "the heart")):
        assert tokens_of(after, text) == tokens_of(before, start + normal)
    assert tokens_of(after, "Heart") == tokens_of(after, " heart")
    assert AutoConfig.from_pretrained(new).vocab_size == len(before) == len(after)
    terms = set(CSPLADE(str(new), device="cpu").vocabulary)
    spelled = "▁" if kind in SENTENCE_PIECE else "Ġ"
    upper = [term for term in terms if term != term.lower() and term.isascii() and not term.startswith("<0x")]
    assert f"{spelled}the" in terms and not upper
    old, changed = load_file(model / "model.safetensors"), load_file(new / "model.safetensors")
    assert old.keys() == changed.keys() and all(np.array_equal(old[key], changed[key]) for key in old)


@pytest.mark.parametrize("kind", KINDS)
def test_words_after_punctuation_are_those_after_a_space(tmp_path: Path, kind: str) -> None:
    model = save_model(tmp_path / "base", kind)
    new = stage(tmp_path, model, kind="lower", normalise=["words", "lowercase"])
    before, after = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(new)
    start = "" if kind == "llama2" else " "
    # By hand: a space before a letter after punctuation, a symbol, an underscore or a line break; all else stays.
    for text, normal in (
        ("`Heart` (heart", "` heart` ( heart"),
        ("get_heart __Heart__", "get_ heart __ heart__"),
        ("us.heart's rate-heart🙂heart", "us. heart' s rate- heart🙂 heart"),
        ("_1 (2024 3.5 heart2heart ( heart", "_1 (2024 3.5 heart2heart ( heart"),
        ("«Ängste» e\u0301a", "« ängste» e\u0301a"),
        ("rate\nheart\n\n  heart\theart", "rate\n heart\n\n  heart\t heart"),
        ("", ""),
    ):
        assert tokens_of(after, text) == tokens_of(before, start + normal if normal else "")
    word = "▁heart" if kind in SENTENCE_PIECE else "Ġheart"
    for text in ("heart", "(heart", "`heart", "get_heart", '"heart', "a/heart", "- heart", "rate\nheart"):
        assert tokens_of(after, text)[-1] == word
    assert tokens_of(after, "2heart")[-1] != word


def test_tokens_with_a_letter_after_punctuation_are_no_terms(tmp_path: Path) -> None:
    texts = ["get get_text (text) 'text' text_text text"] * 3
    corpus = str(save_corpus(tmp_path / "texts.jsonl", texts))
    tokenizer = encoding("llama3").train_new_from_iterator(texts, 300)
    language_model("llama-tied", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    assert {"_text", "text", "Ġtext"} <= tokenizer.get_vocab().keys()
    new = stage(tmp_path, tmp_path / "base", corpus=corpus, normalise=["words"], measured_documents=2)
    after = AutoTokenizer.from_pretrained(new)
    assert set(tokens_of(after, texts[0])) == {"Ġtext", "Ġget", "_", "Ġ(", ")", "Ġ'", "'"}
    assert "_text" not in after.get_vocab() and "_text" not in CSPLADE(str(new), device="cpu").vocabulary
    lower = stage(tmp_path, tmp_path / "base", kind="lower", corpus=corpus, output=str(tmp_path / "all"), normalise=["words"])
    terms = set(CSPLADE(str(lower), device="cpu").vocabulary)
    assert "_text" not in terms and {"Ġtext", "text", "_"} <= terms


def test_a_cut_after_lower_casing_leaves_no_upper_case_but_bytes(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", rows=640)
    new = stage(tmp_path, model, normalise=["nfkc", "lowercase"], min_documents=2)
    tokenizer = AutoTokenizer.from_pretrained(new)
    assert not [token for token in tokenizer.get_vocab() if token != token.lower() and len(token) > 1 and token.isascii()]
    assert AutoConfig.from_pretrained(new).vocab_size == len(tokenizer)  # padded rows go, too
    report = json.loads((new / "vocabulary_report.json").read_text())
    assert report["rows"] == {"before": 640, "after": len(tokenizer)}
    assert report["documents_with_other_tokens"] > 0
    assert {"term": " us", "documents": {" us": 1, " US": 1}} in report["merged_groups"]
    assert report["before"]["bits_per_byte"] > 0 and report["after"]["active_terms"] > 0
    again = AutoTokenizer.from_pretrained(new)
    again.save_pretrained(tmp_path / "again")
    lm = AutoModelForCausalLM.from_pretrained(new)
    copied = CSPLADE((lm, AutoTokenizer.from_pretrained(tmp_path / "again")))
    assert set(copied.vocabulary) == set(CSPLADE(str(new), device="cpu").vocabulary)
    assert "A" not in copied.vocabulary and "a" in copied.vocabulary


def test_tokens_are_kept_by_documents_not_by_occurrences(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base")
    new = stage(tmp_path, model, min_documents=3, keep_texts=["Insulin"])
    tokens = AutoTokenizer.from_pretrained(new).get_vocab()
    before = AutoTokenizer.from_pretrained(model)
    counted = [set(tokens_of(before, text)) for text in SENTENCES]
    often = {token for text in counted for token in text if sum(token in other for other in counted) >= 3}
    assert often <= tokens.keys() and set(tokens_of(before, "Insulin")) <= tokens.keys()
    rare = {token for text in counted for token in text if len(token) > 3} - often
    assert len(rare - tokens.keys()) > len(rare) / 2


def test_the_closure_of_a_token_is_how_it_is_made() -> None:
    # b c is joined first, then a bc: ab is never made.
    letters = {character: number for number, character in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    vocabulary = {**letters, "bc": 256, "ab": 257, "abc": 258}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    assert tokenizer.encode("abc").tokens == ["abc"]
    closed = BytePairs(tokenizer, "m").closed({258})
    assert closed == {letters["a"], letters["b"], letters["c"], 256, 258}


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "qwen3", "mistral", "cohere", "gpt_neox", "phi"])
def test_every_table_gets_the_same_rows(tmp_path: Path, architecture: str) -> None:
    model = save_model(tmp_path / "base", architecture=architecture)
    new = stage(tmp_path, model, measured_documents=3, corpus=str(save_corpus(tmp_path / "few.jsonl", SENTENCES[:2])))
    tokenizer, before = AutoTokenizer.from_pretrained(new), AutoTokenizer.from_pretrained(model)
    old_ids = [before.convert_tokens_to_ids(token) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    old, changed = load_file(model / "model.safetensors"), load_file(new / "model.safetensors")
    assert old.keys() == changed.keys()
    tables = [key for key in old if old[key].shape[0] == len(before)]
    assert len(tables) == {"llama": 2, "mistral": 2, "gpt_neox": 2, "phi": 3}.get(architecture, 1)
    for key in old:
        assert np.array_equal(changed[key], old[key][old_ids] if key in tables else old[key])
    assert json.loads((new / "vocabulary_report.json").read_text())["tied"] == (len(tables) == 1)


def test_special_tokens_are_renumbered_everywhere(tmp_path: Path) -> None:
    tokenizer = encoding("gpt2")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    ids = tokenizer.convert_tokens_to_ids(["<bos>", "<eos>", "<end>"])
    lm = language_model("llama-tied", vocab_size=len(tokenizer), bos_token_id=ids[0], eos_token_id=ids[1:], pad_token_id=ids[1])
    lm.generation_config.eos_token_id, lm.generation_config.pad_token_id = ids[1:], ids[1]
    lm.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    new = stage(tmp_path, tmp_path / "base", min_documents=3)
    after = AutoTokenizer.from_pretrained(new)
    expected = after.convert_tokens_to_ids(["<bos>", "<eos>", "<end>"])
    assert expected != ids
    for file in ("config.json", "generation_config.json"):
        values = json.loads((new / file).read_text())
        assert (values["eos_token_id"], values["pad_token_id"]) == (expected[1:], expected[1])
    assert after.bos_token == "<bos>" and after.bos_token_id == expected[0]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, corpus = save_model(tmp_path / "base"), save_corpus(tmp_path / "docs.jsonl")
    config = tmp_path / "vocabulary.yaml"
    config.write_text(f"model: {model}\noutput: {tmp_path / 'new'}\nkind: lower\ncorpus: {corpus}\nmeasured_documents: 0\n")
    assert load_config(config, VocabularyConfig).steps == ["nfkc", "lowercase"]
    assert command.main(["vocabulary", str(config)]) == 0
    assert str(tmp_path / "new") in capsys.readouterr().out
    assert command.main(["vocabulary", str(config)]) == 2
    assert "exists already: remove it, or name another output" in capsys.readouterr().err
