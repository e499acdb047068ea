"""Readable spellings of tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# Decoded in front of each token, because some decoders drop the leading space of the first token.
_BEFORE = "1"
# What decoders write for an incomplete character.
_REPLACEMENT = "\ufffd"


def readable(tokenizer: Any, terms: Collection[str], *, folded: bool = False) -> list[str]:
    """Return readable spellings of tokens.

    A token that begins a word is spelled as that word. A token that continues a word starts with a hyphen ("-ing"). Punctuation
    stays as it is, white space is quoted, and a token that is only part of a character keeps its spelling in the vocabulary.

    Args:
        tokenizer: The tokenizer.
        terms: Tokens as the vocabulary spells them.
        folded: Whether a term combines tokens that begin a word with tokens that continue one. Such terms get no hyphen.
    """
    texts = (tokenizer.convert_tokens_to_string([_BEFORE, term]).removeprefix(_BEFORE) for term in terms)
    return [spelled(term, text, folded=folded) for term, text in zip(terms, texts)]


def spelled(term: str, text: str, *, folded: bool = False) -> str:
    """Spell one token, which a decoder writes as ``text`` after another token, as :func:`readable` does."""
    hyphen = "" if folded else "-"
    word = text.strip()
    if _REPLACEMENT in text or not text:
        return term
    if not word:
        return repr(text)
    return f"{hyphen}{word}" if word == text and word[0].isalnum() else word
