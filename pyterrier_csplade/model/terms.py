"""The tokens of a language model that are index terms."""

from __future__ import annotations

from typing import Any

from pyterrier_csplade.vectors.vocabulary import Vocabulary

#: A setting in tokenizer_config.json, which the vocabulary stage writes. With the value ``NORMALISED``, tokens that normalised
#: texts cannot contain are not index terms. Without the setting, all tokens except special ones are index terms.
TERMS_SETTING = "csplade_index_terms"
NORMALISED = "normalised"

# Put before a token, because normalisation may treat the start of a text differently. Digits neither change nor combine with
# the next character.
_START = "1"


def index_terms(tokenizer: Any, size: int, stored_sha256: str = "") -> tuple[set[int], Vocabulary]:
    """Return the ids of special tokens, and the index terms. Added tokens that are not special are index terms.

    Args:
        tokenizer: A tokenizer of transformers.
        size: Number of rows of the LM head.
        stored_sha256: Digest of the index terms in the contract; empty if there is none.
    """
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {i for i, token in added.items() if getattr(token, "special", False)}
    tokens = tokenizer.get_vocab()
    unused: set[int] = set()
    if getattr(tokenizer, "init_kwargs", {}).get(TERMS_SETTING) == NORMALISED:
        unused = never_produced(tokenizer.backend_tokenizer)
    vocabulary = Vocabulary.from_tokens(tokens, special_ids=special | unused, size=size)
    if stored_sha256 and stored_sha256 != vocabulary.sha256:  # version 0.1.0 treated all added tokens as special
        older = Vocabulary.from_tokens(tokens, special_ids=special | set(added), size=size)
        if older.sha256 == stored_sha256:
            return special | set(added), older
    return special, vocabulary


def never_produced(backend: Any) -> set[int]:
    """Return the ids of tokens that no text can contain, because normalisation replaces some of their characters.

    Added tokens and tokens that are only part of a character are not included.
    """
    if backend.normalizer is None:
        return set()
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    start = backend.normalizer.normalize_str(_START)
    found = set()
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        # Compared in the spelling of the decoder and in the spelling of the normaliser.
        text = "" if token in added else backend.decoder.decode([_START, token])[len(_START) :]
        if text and "�" not in text:
            normal = backend.normalizer.normalize_str(_START + text)
            if normal not in (start + text, start + token):
                found.add(token_id)
    return found
