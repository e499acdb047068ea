"""Tokens as people read them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# A token before a token, so that the space at its beginning is kept: some decoders drop that of the first one.
_BEFORE = "1"
# What decoders write for parts of a character.
_BROKEN = "\ufffd"


def readable(tokenizer: Any, terms: Collection[str], *, folded: bool = False) -> list[str]:
    """Spell tokens as people read them.

    A token that begins a word is the word; one that continues a word begins with a hyphen ("-ing"). Punctuation stays as it is,
    white space is shown in quotes, and a part of a character keeps its name in the vocabulary.

    Args:
        tokenizer: The tokenizer.
        terms: Its tokens, in the spelling of the vocabulary.
        folded: Whether a term stands for tokens that begin a word and for others, so that none has a hyphen.
    """
    texts = (tokenizer.convert_tokens_to_string([_BEFORE, term]).removeprefix(_BEFORE) for term in terms)
    return [spelled(term, text, folded=folded) for term, text in zip(terms, texts)]


def spelled(term: str, text: str, *, folded: bool = False) -> str:
    """Spell one token as :func:`readable` does.

    Args:
        term: The token, in the spelling of the vocabulary.
        text: What a decoder writes for it behind another token.
        folded: As for :func:`readable`.
    """
    hyphen = "" if folded else "-"
    word = text.strip()
    if _BROKEN in text or not text:
        return term
    if not word:
        return repr(text)
    return f"{hyphen}{word}" if word == text and word[0].isalnum() else word
