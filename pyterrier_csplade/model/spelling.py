"""Tokens as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# A token before a token, so that the space at its beginning is kept: some decoders drop that of the first one.
_BEFORE = "1"
# What decoders write for parts of a character.
_BROKEN = "\ufffd"


def readable(tokenizer: Any, terms: Iterable[str]) -> list[str]:
    """Spell tokens as people read them.

    A token that begins a word is the word; one that continues a word begins with a hyphen ("-ing"). Punctuation stays as it is,
    white space is shown in quotes, and a part of a character keeps its name in the vocabulary.

    Args:
        tokenizer: The tokenizer.
        terms: Its tokens, in the spelling of the vocabulary.
    """
    return [spelled(term, tokenizer.convert_tokens_to_string([_BEFORE, term]).removeprefix(_BEFORE)) for term in terms]


def spelled(term: str, text: str) -> str:
    """Spell one token as :func:`readable` does.

    Args:
        term: The token, in the spelling of the vocabulary.
        text: What a decoder writes for it behind another token.
    """
    word = text.strip()
    if _BROKEN in text or not text:
        return term
    if not word:
        return repr(text)
    return f"-{word}" if word == text and word[0].isalnum() else word
