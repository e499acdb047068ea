"""The checks of a new vocabulary refuse results that are wrong, whatever made them so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, decoders
from transformers import PreTrainedTokenizerFast

from inside.training import (
    BytePairs,
    changed_documents,
    check_kept,
    check_tokenizer,
    checksum,
    largest_difference,
)
from pyterrier_csplade import ContractError
from support.encodings import SENTENCES, encoding


def pairs(kind: str = "gpt2") -> BytePairs:
    return BytePairs(encoding(kind).backend_tokenizer, "m")


def saved(directory: Path, made: BytePairs) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=made.tokenizer, bos_token="<s>").save_pretrained(directory)
    return directory


def without(made: BytePairs, text: str) -> tuple[BytePairs, list[int]]:
    """Remove the tokens of a text, but not those of bytes, although the text is kept."""
    removed = set(made.tokenizer.encode(text, add_special_tokens=False).ids) - set(made.byte_ids.values())
    assert removed
    return made.cut(set(made.tokens.values()) - removed)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "llama2", "gemma3"])
def test_a_tokenizer_that_is_as_it_was_made(tmp_path: Path, kind: str) -> None:
    made = pairs(kind).normalised(["nfkc", "lowercase", "words"])
    check_tokenizer(saved(tmp_path, made), made, [*SENTENCES, ""])


def test_a_tokenizer_that_is_loaded_as_another_one(tmp_path: Path) -> None:
    made = pairs()
    with pytest.raises(ContractError, match="is loaded as another one: the text 'The heart' has other tokens"):
        check_tokenizer(saved(tmp_path, made.normalised(["lowercase"])), made, ["heart", "The heart"][1:])


def test_a_tokenizer_that_loses_text(tmp_path: Path) -> None:
    made = pairs()
    made.state["decoder"] = {"type": "Strip", "content": "Ġ", "start": 1, "stop": 0}
    with pytest.raises(ContractError, match="does not decode to the normalised text 'heart rate'"):
        check_tokenizer(saved(tmp_path, made), made, ["heart rate"])


def test_an_added_token_that_is_another_one(tmp_path: Path) -> None:
    made, other = encoding("gpt2").backend_tokenizer, encoding("gpt2").backend_tokenizer
    made = type(made).from_str(made.to_str())
    made.add_special_tokens(["<end>"])
    other = type(other).from_str(other.to_str())
    other.add_tokens([AddedToken("<other>"), AddedToken("<end>")])
    with pytest.raises(ContractError, match=r"the added token '<end>' \(id \d+\) does not decode to itself"):
        check_tokenizer(saved(tmp_path, BytePairs(other, "m")), BytePairs(made, "m"), [])


def test_an_added_token_that_does_not_decode_to_itself(tmp_path: Path) -> None:
    tokenizer = encoding("gpt2").backend_tokenizer
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("end", "start")])
    made = BytePairs(tokenizer, "m")
    with pytest.raises(ContractError, match=r"the added token '<end>' \(id \d+\) does not decode to itself"):
        check_tokenizer(saved(tmp_path, made), made, [])


def test_prompts_that_have_other_tokens() -> None:
    made = pairs()
    cut, _ = without(made, " heart")
    with pytest.raises(ContractError, match="keep_texts: 'a heart' has other tokens after the cut"):
        check_kept(made, cut, ["The", "a heart"])


def lossless(texts: list[str], cut: BytePairs, old_ids: list[int], before: BytePairs, **changes: Any) -> int:
    encoded = [before.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    digests = [checksum(torch.tensor(ids).numpy()) for ids in encoded]
    return changed_documents(changes.get("now", texts), cut, old_ids, digests, lossless=changes["lossless"], name="docs.jsonl")


def test_documents_that_have_other_tokens() -> None:
    made = pairs()
    cut, old_ids = without(made, " heart")
    texts = ["The US", "the heart"]
    assert lossless(texts[:1], cut, old_ids, made, lossless=True) == 0
    assert lossless(texts, cut, old_ids, made, lossless=False) == 1
    with pytest.raises(ContractError, match="docs.jsonl: document 2 has other tokens after the cut: 'the heart'"):
        lossless(texts, cut, old_ids, made, lossless=True)


@pytest.mark.parametrize("now", [["The US"], ["The US", "the body", "the body"]])
def test_a_corpus_that_changes_meanwhile(now: list[str]) -> None:
    made = pairs()
    cut, old_ids = made.cut(set(made.tokens.values()))
    with pytest.raises(ContractError, match=f"the corpus has {len(now)} documents now, and had 2 before: run again"):
        lossless(["The US", "the body"], cut, old_ids, made, now=now, lossless=False)


def test_logits_that_differ() -> None:
    before = [torch.tensor([[1.0, -2.0], [0.5, 100.0]])]
    # 1e-5 of the largest logit, 100, is 0.001.
    assert largest_difference(before, [before[0] + 0.0009]) == pytest.approx(0.0009, rel=0.05)
    with pytest.raises(ContractError, match="the logits of kept tokens differ by up to 0.002 after the cut"):
        largest_difference(before, [before[0] + 0.002])
    with pytest.raises(ContractError, match="differ by up to nan"):
        largest_difference(before, [torch.full((2, 2), float("nan"))])
