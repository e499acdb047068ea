"""The index terms of a query, as tokenised by the documents' language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from tokenizers import Tokenizer

from pyterrier_csplade._errors import ContractError, is_failure
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.folding import fold_vocabulary
from pyterrier_csplade.vectors.vocabulary import Vocabulary

# Tokens of a language model; our choice (not measured): it bounds the memory that a damaged file takes.
_MOST_TOKENS = 2**24
# How byte-level and SentencePiece tokenizers spell the space before a word.
_SPACES = ("Ġ", "▁")


class QueryTokens:
    """Finds the index terms of queries with the tokenizer of a language model.

    A query is tokenised as by the model, after the contract's prefix and up to its length. The tokens of the prefix are removed
    by their position in the text: a byte-level tokenizer spells the first word ``heart`` at the beginning of a text, but
    ``Ġheart`` after the prefix ``query: ``.

    Attributes:
        tokenizer: The content of the tokenizer's file ``tokenizer.json``.
        token_ids: The tokens that are index terms, before folding, int64, ascending.
        vocabulary: The index terms; if the contract folds them, several tokens are one term.
        split_special_tokens: Whether the names of special tokens in a query are read as text.
    """

    def __init__(
        self, tokenizer: str, contract: Contract, token_ids: np.ndarray, *, split_special_tokens: bool = False
    ) -> None:
        """Load a tokenizer; ``contract`` says how the document encoder reads queries.

        Raises:
            ValueError: The tokenizer cannot be read, has no such token, or a token has a number that is too large.
        """
        self.tokenizer = tokenizer
        self.split_special_tokens = split_special_tokens
        self._backend = _loaded(tokenizer, split_special_tokens)
        self._prefix = contract.query_prefix
        self._length = contract.query_length
        self._room = contract.query_length - contract.add_bos - contract.add_eos
        self.token_ids = np.asarray(token_ids, dtype=np.int64)
        if self.token_ids.max(initial=0) >= _MOST_TOKENS:
            raise ValueError(f"the number of a token must be below {_MOST_TOKENS:,}")
        self.vocabulary, columns = self._index_terms(folded=contract.fold is not None)
        self._columns = np.full(int(self.token_ids.max(initial=-1)) + 1, -1, dtype=np.int64)
        self._columns[self.token_ids] = columns
        self._longest = 0

    def _index_terms(self, *, folded: bool) -> tuple[Vocabulary, np.ndarray]:
        """Return the index terms, and the column of each token."""
        names = {i: term for term, i in self._backend.get_vocab().items()}
        try:
            terms = Vocabulary([names[i] for i in self.token_ids.tolist()], self.token_ids)
        except KeyError as error:
            raise ValueError(f"the tokenizer has no token {error}") from error
        return fold_vocabulary(terms) if folded else (terms, np.arange(len(terms)))

    @property
    def starts_bare(self) -> bool:
        """Whether the first word of a query is spelled differently than words after a space: ``heart``, ``Ġheart``."""
        first, later = (encoding.ids for encoding in self._encoded([self._prefix + text for text in ("the", "the the")]))
        return first[-1] != later[-1]

    def __call__(self, texts: Sequence[str], *, counts: bool = False) -> csr_matrix:
        """Find the index terms of queries.

        Args:
            texts: The queries; a blank query has no terms.
            counts: Whether to count how often each term occurs.

        Returns:
            float32 [texts, terms]: 1 for a term of a query, or its count.

        Raises:
            ContractError: The tokenizer fails.
        """
        prefix, cut = len(self._prefix), 0
        readable = self._readable(max(map(len, texts), default=0))
        encodings = self._encoded([self._prefix + text[:readable] for text in texts])
        columns, starts = [np.empty(0, dtype=np.int64)], [0]
        for text, encoding in zip(texts, encodings):
            ids = np.array(encoding.ids[: self._room], dtype=np.int64)
            cut += len(encoding.ids) > self._room or len(text) > readable
            if prefix:  # a token that reaches into the query belongs to it
                ids = ids[[end > prefix for _, end in encoding.offsets[: self._room]]]
            found = self._columns[ids[ids < len(self._columns)]] if text.strip() else ids[:0]
            columns.append(found[found >= 0])
            starts.append(starts[-1] + len(columns[-1]))
        if cut:
            queries, were = ("query", "was") if cut == 1 else ("queries", "were")
            warn(f"{cut:,} {queries} {were} longer than {self._length} tokens and {were} truncated")
        indices = np.concatenate(columns)
        ones = np.ones(len(indices), dtype=np.float32)
        terms = csr_matrix((ones, indices, starts), shape=(len(texts), len(self.vocabulary)))
        terms.sum_duplicates()
        if not counts:
            terms.data[:] = 1
        return terms

    def _encoded(self, texts: list[str]) -> list[Any]:
        try:
            return self._backend.encode_batch(texts, add_special_tokens=False)  # type: ignore[no-any-return]
        except BaseException as error:
            if not is_failure(error):
                raise
            raise ContractError(f"the tokenizer fails at a query ({error}): copy the query table again") from error

    def text_of(self, term: str) -> str:
        """Return the text that a term spells; the term itself if the tokenizer has no decoder."""
        decoder = self._backend.decoder
        return term if decoder is None else str(decoder.decode([term]))

    def _readable(self, longest_text: int) -> int:
        """Return how many characters of a query can affect the tokens that are read; the model uses the same limit."""
        if longest_text <= self._room:
            return longest_text
        self._longest = self._longest or max(map(len, self._backend.get_vocab()))
        return (self._room + 1) * self._longest


def twins(vocabulary: Vocabulary, *, bare: bool) -> dict[int, int]:
    """Return the columns of terms and of their common spelling, which is more frequent in documents.

    Args:
        vocabulary: The index terms.
        bare: Whether terms without a space before them, which begin a text or continue a word, have the term with a space as
            their common spelling; otherwise only terms with capital letters have one, the term in lower case.
    """
    found = {}
    for column, term in enumerate(vocabulary):
        space = term[:1] if term[:1] in _SPACES else ""
        spaces = (*_SPACES, "") if bare and not space else (space,)
        known = (vocabulary.column(before + term[len(space) :].lower()) for before in spaces)
        twin = next((other for other in known if other is not None), column)
        if twin != column:
            found[column] = twin
    return found


def without_state(tokenizer: str) -> str:
    """Return a tokenizer without the truncation and padding that its last use has set."""
    backend = Tokenizer.from_str(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return str(backend.to_str())


@lru_cache(maxsize=2)
def _loaded(tokenizer: str, split_special_tokens: bool) -> Tokenizer:
    try:
        backend = Tokenizer.from_str(tokenizer)
    except BaseException as error:  # the library raises nothing more specific
        if not is_failure(error):
            raise
        raise ValueError(f"the tokenizer cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = split_special_tokens
    return backend
