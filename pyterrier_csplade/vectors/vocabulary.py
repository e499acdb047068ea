"""The index vocabulary of a language model: which of its tokens are index terms, and in which column."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import overload

import numpy as np

#: Bytes of UTF-8 that a term may have. Terrier's lexicon keeps 20 characters of up to 3 bytes each (its property
#: max.term.length) and is silently damaged by longer terms.
MAX_TERM_BYTES = 60


class Vocabulary(Sequence[str]):
    """Index terms in the order of the columns of an impact matrix.

    A term is the token as the tokenizer's vocabulary spells it (``Ġthe``, ``▁the``), not its decoded text, because different
    tokens may decode to the same text.

    Attributes:
        terms: The index terms, all different.
        token_ids: int64 array [terms]; ``token_ids[column]`` is the language model's id of the term.
    """

    def __init__(self, terms: Sequence[str], token_ids: Sequence[int] | np.ndarray) -> None:
        """Pair terms with token ids.

        Args:
            terms: Distinct index terms, in the order of the columns.
            token_ids: The token of each.

        Raises:
            ValueError: The lengths differ, or a term stands twice.
        """
        self.terms = tuple(terms)
        self.token_ids = np.asarray(token_ids, dtype=np.int64)
        self._columns = {term: column for column, term in enumerate(self.terms)}
        if len(self.token_ids) != len(self.terms) or len(self._columns) != len(self.terms):
            raise ValueError("a vocabulary needs one token id for each term, and no term twice")

    @classmethod
    def from_tokens(cls, tokens: Mapping[str, int], *, special_ids: Collection[int], size: int) -> Vocabulary:
        """Choose the index terms among a tokenizer's tokens.

        Left out are special tokens, tokens that are empty, that UTF-8 cannot encode or that have more than
        ``MAX_TERM_BYTES`` bytes (200 of Llama 3's 128,000), and ids for which the LM head has no row. Terrier sorts terms by
        UTF-16 but searches them by UTF-8, whose orders differ where characters from U+E000 to U+FFFF meet those beyond; if a
        vocabulary that is not byte-level has both, tokens with those beyond (mostly emoji) are left out as well.

        Args:
            tokens: Token string to id (``tokenizer.get_vocab()``).
            special_ids: Ids of special tokens.
            size: Rows of the LM head.
        """
        special = frozenset(special_ids)
        kept = sorted((i, token) for token, i in tokens.items() if i < size and i not in special and is_index_term(token))
        if any("\ue000" <= c <= "\uffff" for _, token in kept for c in token):
            kept = [(i, token) for i, token in kept if max(token) <= "\uffff"]
        return cls([token for _, token in kept], [i for i, _ in kept])

    def column(self, term: str) -> int | None:
        """Return the column of a term, None if it is not in the vocabulary."""
        return self._columns.get(term)

    @property
    def sha256(self) -> str:
        """Digest of terms and token ids, in hexadecimal."""
        digest = hashlib.sha256()
        for term, token_id in zip(self.terms, self.token_ids.tolist()):
            digest.update(f"{token_id}\0{term}\0".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.terms)

    def __iter__(self) -> Iterator[str]:
        return iter(self.terms)

    def __contains__(self, term: object) -> bool:
        return term in self._columns

    @overload
    def __getitem__(self, column: int) -> str: ...
    @overload
    def __getitem__(self, column: slice) -> Sequence[str]: ...
    def __getitem__(self, column: int | slice) -> str | Sequence[str]:
        return self.terms[column]

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} terms)"


def is_index_term(term: str) -> bool:
    """Whether Terrier's lexicon can hold a term: not empty, at most ``MAX_TERM_BYTES`` bytes of valid UTF-8."""
    try:
        return 0 < len(term.encode("utf-8")) <= MAX_TERM_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False
