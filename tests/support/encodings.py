"""Tokenizers of published kinds, trained on a few sentences."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

#: Texts with upper and lower case, digits, leading spaces, line breaks, and characters of several bytes.
SENTENCES = [
    "The heart pumps blood through the body. Heart disease is the leading cause of death in the US.",
    "heart rate: HEART RATE 120 bpm, measured in 2024 by us.",
    " Diabetes and diabetic patients: Insulin, insulin, INSULIN.",
    "What is aspirin?\nAspirin thins the blood;\n\naspirin helps hearts.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 検索 🙂",
    "naïve café CAFÉ déjà-vu ﬁnal ① Ｆｕｌｌ",
]
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_QWEN_SPLIT = _SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

KINDS = ("gpt2", "llama3", "digits", "qwen3", "llama2", "gemma", "gemma3")
#: Those with ``▁`` for a space.
SENTENCE_PIECE = ("llama2", "gemma", "gemma3")


@cache
def encoding(kind: str, size: int = 600) -> Any:
    """Train a tokenizer of a kind.

    Args:
        kind: "gpt2" (byte-level; GPT-2, NeoX), "llama3" (byte-level with its own division into words, which skips merges for
            words that are tokens), "digits" (byte-level after single digits; SmolLM2), "qwen3" (byte-level after NFC and a
            division like Llama 3's, with added tokens after all others, and without a beginning-of-text token), "llama2"
            (SentencePiece with a space before texts; Mistral), "gemma" (SentencePiece without) or "gemma3" (also with a
            division that divides nothing, and with runs of line breaks and spaces as added tokens).
        size: Number of tokens.
    """
    sentence_piece = kind in SENTENCE_PIECE
    bytes_of_pieces = [f"<0x{byte:02X}>" for byte in range(256)] if sentence_piece else []
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True) if sentence_piece else models.BPE())
    if sentence_piece:
        prefix = [normalizers.Prepend("▁")] if kind == "llama2" else []
        tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for the training only
        start = [decoders.Strip(" ", 1, 0)] if kind == "llama2" else []
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *start])
    else:
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
        split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
        divisions: dict[str, list[Any]] = {
            "gpt2": [plain],
            "llama3": [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)],
            "digits": [pre_tokenizers.Digits(individual_digits=True), plain],
            "qwen3": [
                pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ],
        }
        if kind == "qwen3":
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(divisions[kind])
        tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>", *bytes_of_pieces],
        initial_alphabet=[] if sentence_piece else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 2, trainer)
    tokenizer = _published(tokenizer, kind)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _published(tokenizer: Tokenizer, kind: str) -> Tokenizer:
    """Finish a trained tokenizer as published ones are."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    if kind in SENTENCE_PIECE:
        state["pre_tokenizer"] = None
    if kind == "gemma3":
        state["pre_tokenizer"] = {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        }
    if kind == "llama3":
        state["model"]["ignore_merges"] = True
    finished = Tokenizer.from_str(json.dumps(state))
    if kind == "gemma3":
        finished.add_tokens([AddedToken(run, normalized=False) for run in ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<unused0>")])
    if kind == "qwen3":
        finished.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        finished.add_tokens([AddedToken("<think>", normalized=False)])
        finished.post_processor = processors.ByteLevel(trim_offsets=False)
        return finished
    start = finished.token_to_id("<s>")
    finished.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", start)])
    return finished
