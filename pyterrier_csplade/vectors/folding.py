"""Folding: the spellings of a word (``heart``, ``Ġheart``, ``Heart``) become one term with the largest of their weights.

The activation and the maximum over positions are non-decreasing. The largest weight of several terms is therefore the weight
of the maximum of their logits: folding vectors gives the same result as folding the columns of the LM head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError, DataError

from .checks import check_finite_vector, check_one_of
from .column import Column, ColumnTransformer
from .contract import Contract, Fold
from .impacts import ImpactVector
from .matrices import ChangedVectors, EncodedVectors
from .vocabulary import Vocabulary, is_index_term

#: How tokens spell characters: "byte-level" as in Llama 3, Qwen and GPT-2 (``Ġ`` is a space), "sentencepiece" as in Llama 2,
#: Mistral and Gemma (``▁`` is one).
Spelling = Literal["byte-level", "sentencepiece"]

# How each spelling writes the space before a word.
_SPACES: dict[Spelling, str] = {"byte-level": "Ġ", "sentencepiece": "▁"}

_FOLD: Fold = "case+space"
_SHOWN = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
_OTHERS = [byte for byte in range(256) if byte not in _SHOWN]
# The character for each byte in byte-level spelling (GPT-2).
_CHARACTERS = [chr(byte if byte in _SHOWN else 256 + _OTHERS.index(byte)) for byte in range(256)]
_BYTES = {character: byte for byte, character in enumerate(_CHARACTERS)}


def fold_term(term: str, spelling: Spelling) -> str:
    """Return the term for all spellings of a word: in lower case, without the space before it.

    Terms that are white space, a part of a character, or not a valid index term in lower case stay as they are.
    """
    if spelling == "sentencepiece":
        folded = term.lower().lstrip("▁") if not term.startswith("<0x") else term
    else:
        try:
            text = bytes(_BYTES[character] for character in term).decode().lower().lstrip(" ")
        except (KeyError, UnicodeDecodeError):
            return term
        folded = "".join(_CHARACTERS[byte] for byte in text.encode())
    return folded if is_index_term(folded) else term


def _of_other_spelling(terms: Collection[str], spelling: Spelling) -> str | None:
    """Return a term that shows that terms have the other spelling than the given one; None if none does."""
    if any(term.startswith(_SPACES[spelling]) for term in terms):
        return None
    (other,) = (space for known, space in _SPACES.items() if known != spelling)
    return next((term for term in terms if term.startswith(other)), None)


def fold_vocabulary(vocabulary: Vocabulary) -> tuple[Vocabulary, np.ndarray]:
    """Fold the terms of a vocabulary.

    Args:
        vocabulary: The terms, which are byte-level if more of them begin with ``Ġ``, a letter of Maltese, than with ``▁``.

    Returns:
        The folded terms, each with the first token id of its spellings, and the new column of each old column, int64.
    """
    byte_level, sentencepiece = (sum(term.startswith(space) for term in vocabulary) for space in _SPACES.values())
    spelling: Spelling = "byte-level" if byte_level > sentencepiece else "sentencepiece"
    columns: dict[str, int] = {}
    new = [columns.setdefault(fold_term(term, spelling), len(columns)) for term in vocabulary]
    _, first = np.unique(new, return_index=True)
    return Vocabulary(list(columns), vocabulary.token_ids[first]), np.asarray(new, dtype=np.int64)


class FoldTerms(ColumnTransformer):
    """Folds vectors: spellings of a word that differ in case, or in the space before it, become one term.

    Fold both documents and queries. ``CSPLADE(..., fold="case+space")`` folds while it encodes; its vectors can be searched
    together with the vectors of this transformer. An encoder applies limits such as ``top_k`` after its own folding, but before
    this transformer. Missing vectors (None, NaN) are left as they are. Vectors whose terms begin with the space of the other
    spelling are refused.

    Example::

        (csplade.doc_encoder() >> FoldTerms() >> index).index(corpus)
        pipeline = csplade.query_encoder() >> FoldTerms(on="query_toks") >> index.retriever()
    """

    def __init__(self, *, on: Column = "toks", spelling: Spelling = "byte-level") -> None:
        """Choose the vectors.

        Args:
            on: The column to fold: "toks" of documents or "query_toks" of queries.
            spelling: How the model's tokens spell characters: "byte-level" (Llama 3, Qwen, GPT-2) or "sentencepiece" (Llama 2,
                Mistral, Gemma).

        Raises:
            ValueError: An argument is not one of these values.
        """
        super().__init__()
        self.on = on
        self.spelling = spelling
        self._check()

    def _check(self) -> None:
        check_one_of("on", self.on, get_args(Column))
        check_one_of("spelling", self.spelling, get_args(Spelling))

    def vectors(self, encoded: EncodedVectors) -> EncodedVectors:
        """Return encoded documents that are folded block by block as they are read.

        Args:
            encoded: Documents of a bulk encoder, or other documents in matrices.

        Raises:
            ContractError: The terms have the other spelling; the message names one of them.
        """
        self._check()
        self._check_terms(encoded.vocabulary, lambda _: "the vocabulary of the documents")
        columns: dict[str, int] = {}
        new = [columns.setdefault(fold_term(term, self.spelling), len(columns)) for term in encoded.vocabulary]
        fold = partial(fold_matrix, columns=np.asarray(new, dtype=np.int64), terms=len(columns))
        return ChangedVectors(encoded, fold, list(columns), encoded.contract and _with_fold(encoded.contract))

    def _changed_vectors(self, names: Sequence[str], vectors: Sequence[Any]) -> list[Any]:
        folded: dict[str, str] = {}
        changed = []
        for name, vector in zip(names, vectors):
            if not isinstance(vector, Mapping):
                changed.append(vector)
                continue
            weights: dict[str, float] = {}
            for term, weight in check_finite_vector(vector, name).items():
                if not isinstance(term, str):
                    raise DataError(f"{name}: terms must be str, found {term!r:.60}")
                if term not in folded:
                    folded[term] = fold_term(term, self.spelling)
                weights[folded[term]] = max(weight, weights.get(folded[term], weight))
            contract = getattr(vector, "contract", None)
            changed.append(ImpactVector(weights, contract and _with_fold(contract), getattr(vector, "text_digest", None)))
        named = list(zip(names, vectors))
        self._check_terms(folded, lambda term: next(n for n, vector in named if isinstance(vector, Mapping) and term in vector))
        return changed

    def _check_terms(self, terms: Collection[str], where: Callable[[str], str]) -> None:
        if (term := _of_other_spelling(terms, self.spelling)) is not None:
            (other,) = (known for known in _SPACES if known != self.spelling)
            raise ContractError(
                f"{where(term)} has the term {term!r}, which is not spelled as {self.spelling} tokens are: use "
                f"FoldTerms(spelling={other!r})"
            )


@lru_cache(maxsize=8)
def _with_fold(contract: Contract) -> Contract:
    """Return the folded contract, the same object each time, so that contracts of vectors can be compared by identity."""
    return contract.replace(fold=_FOLD)


def fold_matrix(matrix: csr_matrix, columns: np.ndarray, terms: int) -> csr_matrix:
    """Fold the columns of vectors [texts, old columns] into the new ``columns``; the largest value is kept."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    keys = rows.astype(np.int64) * terms + columns[matrix.indices]
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], matrix.data[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    largest = np.maximum.reduceat(values, starts) if len(keys) else values
    kept = keys[starts]
    indptr = np.searchsorted(kept // terms, np.arange(matrix.shape[0] + 1))
    return csr_matrix((largest, kept % terms, indptr), shape=(matrix.shape[0], terms))
