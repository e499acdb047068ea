"""Folding: one term for the spellings of a word (``heart``, ``Ġheart``, ``Heart``), with the largest of their weights.

The activation and the maximum over positions are non-decreasing. The largest weight of several terms is therefore the weight
that the maximum of their logits has: folding vectors equals folding the columns of the LM head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError

from .checks import check_choice, check_finite_vector, check_matrix
from .column import Column, ColumnTransformer
from .contract import Contract, Fold
from .impacts import ImpactVector
from .matrices import EncodedVectors
from .vocabulary import Vocabulary, is_index_term

#: How tokens spell characters: "byte-level" as in Llama 3, Qwen and GPT-2 (``Ġ`` is a space), "sentencepiece" as in Llama 2,
#: Mistral and Gemma (``▁`` is one).
Spelling = Literal["byte-level", "sentencepiece"]

# How each spelling writes the space before a word.
_SPACES: dict[Spelling, str] = {"byte-level": "Ġ", "sentencepiece": "▁"}

_FOLD: Fold = "case+space"
_SHOWN = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
_OTHERS = [byte for byte in range(256) if byte not in _SHOWN]
# Characters that stand for bytes in byte-level spelling (GPT-2).
_CHARACTERS = [chr(byte if byte in _SHOWN else 256 + _OTHERS.index(byte)) for byte in range(256)]
_BYTES = {character: byte for byte, character in enumerate(_CHARACTERS)}


def fold_term(term: str, spelling: Spelling) -> str:
    """Return the term that stands for all spellings of a word: lower case, without the space before it.

    Terms that are white space, a part of a character, or no valid index term in lower case stay as they are.

    Args:
        term: A token as the vocabulary spells it.
        spelling: How it spells characters.
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
        vocabulary: The terms; their spelling is byte-level if more of them begin with ``Ġ``, a letter of Maltese, than with
            ``▁``.

    Returns:
        The folded terms, each with the first token id of those that it stands for; and the new column of each old one, int64.
    """
    byte_level, sentencepiece = (sum(term.startswith(space) for term in vocabulary) for space in _SPACES.values())
    spelling: Spelling = "byte-level" if byte_level > sentencepiece else "sentencepiece"
    columns: dict[str, int] = {}
    new = [columns.setdefault(fold_term(term, spelling), len(columns)) for term in vocabulary]
    _, first = np.unique(new, return_index=True)
    return Vocabulary(list(columns), vocabulary.token_ids[first]), np.asarray(new, dtype=np.int64)


class FoldTerms(ColumnTransformer):
    """Folds finished vectors: spellings of a word that differ in case, or in the space before it, become one term.

    Documents and queries must both be folded. ``CSPLADE(..., fold="case+space")`` does so while it encodes, and its vectors can
    be searched together with those of this transformer. Limits such as ``top_k`` act before this transformer, but after the
    folding of an encoder. Missing vectors (None, NaN) are left as they are. Vectors whose terms begin with the other spelling's
    space are refused.

    Example::

        (csplade.doc_encoder() >> FoldTerms() >> index).index(corpus)
        pipeline = csplade.query_encoder() >> FoldTerms(on="query_toks") >> index.retriever()
    """

    schematic = {"label": "FoldTerms", "help_url": None}

    def __init__(self, *, on: Column = "toks", spelling: Spelling = "byte-level") -> None:
        """Choose the vectors.

        Args:
            on: The column to fold: "toks" of documents or "query_toks" of queries.
            spelling: How the model's tokens spell characters: "byte-level" (Llama 3, Qwen, GPT-2) or "sentencepiece" (Llama 2,
                Mistral, Gemma).

        Raises:
            ValueError: An argument has another value.
        """
        super().__init__()
        self.on = on
        self.spelling = spelling
        self._check()

    def _check(self) -> None:
        check_choice("on", self.on, get_args(Column))
        check_choice("spelling", self.spelling, get_args(Spelling))

    def vectors(self, encoded: EncodedVectors) -> EncodedVectors:
        """Return encoded documents that are folded block by block when they are read.

        Args:
            encoded: Documents of a bulk encoder, or other documents in matrices.

        Raises:
            ContractError: The terms have the other spelling; names one.
        """
        self._check()
        self._check_terms(encoded.vocabulary, lambda _: "the vocabulary of the documents")
        columns: dict[str, int] = {}
        new = [columns.setdefault(fold_term(term, self.spelling), len(columns)) for term in encoded.vocabulary]
        return _FoldedVectors(encoded, list(columns), np.asarray(new, dtype=np.int64))

    def _changed_vectors(self, names: Sequence[str], vectors: Sequence[Any]) -> list[Any]:
        known: dict[str, str] = {}
        found = []
        for name, vector in zip(names, vectors):
            if not isinstance(vector, Mapping):
                found.append(vector)
                continue
            weights: dict[str, float] = {}
            for term, weight in check_finite_vector(vector, name).items():
                if term not in known:
                    known[term] = fold_term(term, self.spelling)
                folded = known[term]
                weights[folded] = max(weight, weights.get(folded, weight))
            contract = getattr(vector, "contract", None)
            found.append(ImpactVector(weights, contract and _with_fold(contract)))
        named = list(zip(names, vectors))
        self._check_terms(known, lambda term: next(n for n, vector in named if isinstance(vector, Mapping) and term in vector))
        return found

    def _check_terms(self, terms: Collection[str], where: Callable[[str], str]) -> None:
        if (term := _of_other_spelling(terms, self.spelling)) is not None:
            (other,) = (known for known in _SPACES if known != self.spelling)
            raise ContractError(
                f"{where(term)} has the term {term!r}, which is not spelled as {self.spelling} tokens are: use "
                f"FoldTerms(spelling={other!r})"
            )


@lru_cache(maxsize=8)
def _with_fold(contract: Contract) -> Contract:
    """Return the same object each time, so that a comparison of vectors' contracts is one of identities."""
    return contract.replace(fold=_FOLD)


def fold_matrix(matrix: csr_matrix, columns: np.ndarray, terms: int) -> csr_matrix:
    """Fold the columns of vectors, with the largest value where several columns become one.

    Args:
        matrix: [texts, old columns].
        columns: The new column of each old one.
        terms: Number of new columns.
    """
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    keys = rows.astype(np.int64) * terms + columns[matrix.indices]
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], matrix.data[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    largest = np.maximum.reduceat(values, starts) if len(keys) else values
    kept = keys[starts]
    indptr = np.searchsorted(kept // terms, np.arange(matrix.shape[0] + 1))
    return csr_matrix((largest, kept % terms, indptr), shape=(matrix.shape[0], terms))


@dataclass(frozen=True)
class _FoldedVectors:
    encoded: EncodedVectors
    vocabulary: Sequence[str]
    columns: np.ndarray

    @property
    def contract(self) -> Contract | None:
        return self.encoded.contract and _with_fold(self.encoded.contract)

    def __len__(self) -> int:
        return len(self.encoded)

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        for docnos, matrix in self.encoded.blocks():
            check_matrix(matrix, docnos)
            yield docnos, fold_matrix(matrix, self.columns, len(self.vocabulary))
