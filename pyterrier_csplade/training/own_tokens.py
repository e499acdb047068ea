"""The own tokens of texts, for lexical losses, lexical grounding and expansion control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from pyterrier_csplade.model.backbone import Backbone, Role

# Texts with different first tokens.
_DIFFERENT = ("a", "b", "1", "the")


@dataclass(frozen=True)
class OwnTokens:
    """The own tokens of some texts: the distinct index terms among their tokens, without the prefix.

    Attributes:
        rows: The text of each own token, ascending, int64 [tokens].
        columns: The index term of each own token, ascending within a text, int64 [tokens].
        counts: Number of occurrences of each own token in its text, float32 [tokens].
    """

    rows: Tensor
    columns: Tensor
    counts: Tensor

    def per_text(self, texts: int) -> Tensor:
        """Return the number of own tokens of each text, int64 [texts]."""
        return torch.bincount(self.rows, minlength=texts)

    def lengths(self, texts: int) -> Tensor:
        """Return the number of index terms among the tokens of each text, including repetitions, float32 [texts]."""
        return self.counts.new_zeros(texts).index_add_(0, self.rows, self.counts)

    def mask(self, texts: int, terms: int) -> Tensor:
        """Return the own tokens as a bool matrix [texts, terms]."""
        mask = torch.zeros(texts, terms, dtype=torch.bool, device=self.rows.device)
        mask[self.rows, self.columns] = True
        return mask

    def matrix(self, texts: int, terms: int) -> csr_matrix:
        """Return the counts as a matrix [texts, terms] on the host."""
        entries = tuple(tensor.cpu().numpy() for tensor in (self.counts, self.rows, self.columns))
        return csr_matrix((entries[0], entries[1:]), shape=(texts, terms))


class OwnTokenFinder:
    """Finds the own tokens of token sequences."""

    def __init__(self, backbone: Backbone) -> None:
        """Read the index terms, the prefixes and the beginning-of-text token of a model."""
        contract, tokenizer = backbone.contract, backbone.tokenizer
        self.column_of_token = backbone.column_of_token.cpu().numpy()
        self.terms = len(backbone.vocabulary)
        prefixes: dict[Role, str] = {"query": contract.query_prefix, "document": contract.document_prefix}
        self.before = {role: prefix_ids(tokenizer, prefix, add_bos=contract.add_bos) for role, prefix in prefixes.items()}

    def __call__(self, sequences: Sequence[Sequence[int]], role: Role) -> OwnTokens:
        """Find the own tokens of texts.

        Args:
            sequences: Token ids of each text from ``Backbone.tokenize``.
            role: "query" or "document", which determines the prefix to leave out.
        """
        texts = [ids[_common(ids, self.before[role]) :] for ids in sequences]
        rows = np.repeat(np.arange(len(texts)), [len(ids) for ids in texts])
        columns = self.column_of_token[np.array([token for ids in texts for token in ids], dtype=np.int64)]
        places, counts = np.unique((rows * self.terms + columns)[columns >= 0], return_counts=True)
        return OwnTokens(
            rows=torch.from_numpy(places // self.terms),
            columns=torch.from_numpy(places % self.terms),
            counts=torch.from_numpy(counts.astype(np.float32)),
        )


def prefix_ids(tokenizer: Any, prefix: str, *, add_bos: bool) -> list[int]:
    """Return the token ids that a contract puts before every text.

    A tokenizer may join the last token of a prefix with the first token of a text ("passage: " and "text" to "Ġtext"). Only the
    tokens with which all texts begin are returned.
    """
    before = [tokenizer.bos_token_id] if add_bos else []
    if not prefix:
        return before
    first, *others = tokenizer([prefix + text for text in _DIFFERENT], add_special_tokens=False)["input_ids"]
    return [*before, *first[: min(_common(first, ids) for ids in others)]]


def _common(ids: Sequence[int], before: Sequence[int]) -> int:
    """Return the length of the common beginning of two sequences."""
    return next((place for place, (a, b) in enumerate(zip(ids, before)) if a != b), min(len(ids), len(before)))
