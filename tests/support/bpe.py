"""Tokenizers of the kinds of published language models, trained on a few lines."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .texts import DOCUMENTS

_LINES = [
    *DOCUMENTS.values(),
    "query: heart attack", "query: Heart failure", "the heart of the matter", "a heart attack, an attack of the heart",
    "Heart disease in 2024 and 1999", "passage: what is a heart attack?", "the attack failed", "heart failure", "heart attack",
]  # fmt: skip
#: Splits a text into words as Llama 3's tokenizer does.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<s>", "</s>", "<pad>"]


def _trained(tokenizer: Tokenizer, size: int, *, alphabet: bool = True) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else [],
    )  # fmt: skip
    tokenizer.train_from_iterator(_LINES * 3, trainer)
    return tokenizer


def llama_3() -> Tokenizer:
    """Byte-level BPE without a space before the first word; a template that adds BOS."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_LLAMA_3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trained = _trained(tokenizer, 700)
    trained.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
    ])  # fmt: skip
    return trained


def smollm_2() -> Tokenizer:
    """Byte-level BPE without a space before the first word, and single digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, 700)


def sentencepiece() -> Tokenizer:
    """BPE with ``▁`` before the text and for spaces, as Llama 2's and Mistral's tokenizers have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return _trained(tokenizer, 700, alphabet=False)


KINDS = {"llama-3": llama_3, "smollm-2": smollm_2, "sentencepiece": sentencepiece}


@cache
def tokenizer_of(kind: str) -> Any:
    """Return a tokenizer of transformers."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
