"""Which tokens of a language model are index terms."""

from __future__ import annotations

from typing import Any

from pyterrier_csplade.vectors.vocabulary import Vocabulary

#: A setting in tokenizer_config.json: with the value ``NORMALISED``, tokens that no normalised text has are no index terms. The
#: vocabulary stage writes it; without it, all tokens but special ones are terms, as in checkpoints from before.
TERMS_SETTING = "csplade_index_terms"
NORMALISED = "normalised"

# Put before a token, so that the start of the text, which normalisation may treat in its own way, is elsewhere. Digits neither
# change nor compose with what follows.
_START = "1"


def index_terms(tokenizer: Any, size: int, stored_sha256: str = "") -> tuple[set[int], Vocabulary]:
    """Return the ids of special tokens and the index terms, to which added tokens belong that are not special.

    Args:
        tokenizer: The tokenizer of transformers.
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
    if stored_sha256 and stored_sha256 != vocabulary.sha256:  # version 0.1.0 took all added tokens to be special
        older = Vocabulary.from_tokens(tokens, special_ids=special | set(added), size=size)
        if older.sha256 == stored_sha256:
            return special | set(added), older
    return special, vocabulary


def never_produced(backend: Any) -> set[int]:
    """Return the ids of tokens with characters that the tokenizer's normalisation replaces, so that no text has them.

    Tokens that are parts of a character, and added tokens, are not among them.

    Args:
        backend: A tokenizer of the library ``tokenizers``.
    """
    if backend.normalizer is None:
        return set()
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    start = backend.normalizer.normalize_str(_START)
    found = set()
    for token, token_id in backend.get_vocab(with_added_tokens=True).items():
        # Spelled as the decoder spells it, and as the normaliser does.
        text = "" if token in added else backend.decoder.decode([_START, token])[len(_START) :]
        if text and "�" not in text:
            normal = backend.normalizer.normalize_str(_START + text)
            if normal not in (start + text, start + token):
                found.add(token_id)
    return found
