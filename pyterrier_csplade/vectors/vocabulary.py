"""The index vocabulary of a language model: which of its tokens are index terms, and in which column."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import overload

import numpy as np

#: Maximum length of a term in bytes of UTF-8. Terrier's lexicon stores 20 characters of up to 3 bytes each (its property
#: max.term.length), and longer terms damage it silently.
MAX_TERM_BYTES = 60


class Vocabulary(Sequence[str]):
    """Index terms, in the order of the columns of an impact matrix.

    A term is a token as the tokenizer's vocabulary spells it (``Ġthe``, ``▁the``), not its decoded text, because different
    tokens may decode to the same text.

    Attributes:
        terms: The index terms, all different.
        token_ids: int64 array [terms]; ``token_ids[column]`` is the term's id in the language model.
    """

    def __init__(self, terms: Sequence[str], token_ids: Sequence[int] | np.ndarray) -> None:
        """Pair terms with token ids.

        Args:
            terms: Distinct index terms, in the order of the columns.
            token_ids: The token id of each term.

        Raises:
            ValueError: The lengths differ, or a term appears twice.
        """
        self.terms = tuple(terms)
        self.token_ids = np.asarray(token_ids, dtype=np.int64)
        self._columns = {term: column for column, term in enumerate(self.terms)}
        if len(self.token_ids) != len(self.terms) or len(self._columns) != len(self.terms):
            raise ValueError("a vocabulary needs one token id for each term, and each term only once")

    @classmethod
    def from_tokens(cls, tokens: Mapping[str, int], *, special_ids: Collection[int], size: int) -> Vocabulary:
        """Choose the index terms from the tokens of a tokenizer.

        Special tokens are left out, as are ids without a row in the LM head and tokens that Terrier's lexicon cannot store (200
        of Llama 3's 128,000). Terrier sorts terms by UTF-16 but searches them by UTF-8. The two orders differ if a vocabulary
        has both characters from U+E000 to U+FFFF and characters above U+FFFF; tokens with characters above U+FFFF (mostly
        emoji) are then also left out.

        Args:
            tokens: Token string to id (``tokenizer.get_vocab()``).
            special_ids: Ids of special tokens.
            size: Number of rows of the LM head.
        """
        special = frozenset(special_ids)
        kept = sorted((i, token) for token, i in tokens.items() if i < size and i not in special and is_index_term(token))
        if any("\ue000" <= c <= "\uffff" for _, token in kept for c in token):
            kept = [(i, token) for i, token in kept if max(token) <= "\uffff"]
        return cls([token for _, token in kept], [i for i, _ in kept])

    def column(self, term: str) -> int | None:
        """Return the column of a term; None if it is not in the vocabulary."""
        return self._columns.get(term)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of terms and token ids."""
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
    """Return whether Terrier's lexicon can hold a term: 1 to ``MAX_TERM_BYTES`` bytes of valid UTF-8."""
    try:
        return 0 < len(term.encode("utf-8")) <= MAX_TERM_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False
