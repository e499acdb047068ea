"""Rows of new tokens, made from the rows of old ones.

A new token gets the mean of the old tokens with the same text in any case, weighted by document frequency, so that rare forms
have little influence. If no old token has the text, it is divided into old tokens, and the new token gets their mean. The mean
of k nearly orthogonal rows has 1/sqrt(k) of their length, which would prevent composed terms from reaching the maximum. Lengths
are therefore matched to the lengths of old tokens of similar frequency.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from .bpe import BytePairs, normal_text
from .shards import Rewrite, Stored

#: The origin of a row.
Origin = Literal["copied", "folded", "composed", "neighbours", "random"]

_TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
# Frequency classes in which lengths are matched (deciles), and rows that are made together; our choice (not measured).
_CLASSES, _CHUNK = 10, 4096


@dataclass(frozen=True)
class Plan:
    """A plan for making the rows of a table.

    Attributes:
        weights: Weights of old rows in each new row, CSR [new tokens, old rows]. Each row adds up to 1.
        origins: The origin of each new row.
    """

    weights: csr_matrix
    origins: list[Origin]

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by origin."""
        return dict(Counter(self.origins))


def plan_rows(
    old: BytePairs, new: BytePairs, documents: np.ndarray, steps: Sequence[str], *, rows: int, first_piece: bool = False
) -> Plan:
    """Find the old tokens of each new token.

    Args:
        old: The old tokenizer.
        new: The new tokenizer, whose added tokens are among the old ones.
        documents: In how many documents of the corpus each old token occurs.
        steps: Steps of the new tokenizer's normalisation.
        rows: Number of old rows.
        first_piece: Whether a divided text gets only the row of its first part, by which an LM head predicts a word.
    """
    forms = _forms(old, steps)
    spelling = old.tokenizer.model
    ordered = sorted(new.tokens, key=new.tokens.__getitem__)
    ids: list[list[int]] = []
    values: list[list[float]] = []
    origins: list[Origin] = []
    for token in ordered:
        text = new.bytes_of(token)
        found = [old.tokens[token]] if token in new.added else forms.get(_folded(text, steps), [])
        if token not in new.added and text.startswith(b" "):
            # In the old tokenizer, the first word of a text has no space.
            found = found + forms.get(_folded(text[1:], steps), [])
        if found:
            same = len(found) == 1 and (token in new.added or old.bytes_of(old.names[found[0]]) == text)
            origins.append("copied" if same else "folded")
            weights = [float(documents[one]) + 1 for one in found]
        else:
            found = _pieces(old, spelling, text)
            found = found[:1] if first_piece else found
            origins.append("composed")
            weights = [1.0] * len(found)
        total = sum(weights)
        ids.append(found)
        values.append([weight / total for weight in weights])
    indptr = np.cumsum([0, *map(len, ids)])
    matrix = csr_matrix((np.concatenate(values), np.concatenate(ids).astype(np.int64), indptr), shape=(len(ordered), rows))
    matrix.sum_duplicates()
    return Plan(matrix, origins)


def _forms(old: BytePairs, steps: Sequence[str]) -> dict[bytes, list[int]]:
    """Return the ids of the old tokens by their normalised bytes."""
    forms: dict[bytes, list[int]] = defaultdict(list)
    for token_id, token in sorted(old.names.items()):
        if token not in old.added:
            forms[_folded(old.bytes_of(token), steps)].append(token_id)
    return forms


def _folded(text: bytes, steps: Sequence[str]) -> bytes:
    try:
        return normal_text(text.decode(), steps).encode()
    except UnicodeDecodeError:  # a part of a character
        return text


def _pieces(old: BytePairs, spelling: Any, text: bytes) -> list[int]:
    """Divide a text into old tokens, as one word."""
    try:
        pieces = [token.id for token in spelling.tokenize(old.spelled(text))]
    except UnicodeDecodeError:  # part of a character, which SentencePiece cannot spell
        pieces = []
    return pieces or [old.byte_ids[byte] for byte in text if byte in old.byte_ids] or [min(old.byte_ids.values())]


def tensor_of(table: Stored) -> Tensor:
    """Map a table into memory. One-dimensional tables, such as biases, get one column."""
    content = np.memmap(table.file, dtype=np.uint8, mode="c", offset=table.offset, shape=(table.size,))
    return torch.from_numpy(content).view(_TYPES[table.dtype]).view(table.shape[0], -1)


def made_table(table: Stored, rewrite: Rewrite) -> Tensor:
    """Return the new rows of a table in memory."""
    dtype = _TYPES[table.dtype]
    width = table.size // table.shape[0] // dtype.itemsize
    return torch.frombuffer(bytearray().join(rewrite(table)), dtype=dtype).view(-1, width)


def lengths_of(table: Tensor) -> np.ndarray:
    """Return the lengths of rows."""
    return torch.cat([part.float().norm(dim=1) for part in torch.split(table, _CHUNK)]).numpy()


def compose(
    table: Stored, plan: Plan, old_documents: np.ndarray, new_documents: np.ndarray, *, match_norms: bool, seed: int
) -> Iterator[bytes]:
    """Yield the new rows of a table, a few thousand at a time.

    Args:
        table: The old rows.
        plan: The plan of the new rows.
        old_documents: Number of documents that contain each old token.
        new_documents: Number of documents that contain each new token.
        match_norms: Whether rows that are not copied get the median length of old rows that are about as frequent.
        seed: Seed of random rows.
    """
    old = tensor_of(table)
    targets = None
    if match_norms and old.shape[1] > 1:
        targets = _medians(lengths_of(old)[: len(old_documents)], old_documents)[_classes(new_documents)]
    drawn = torch.Generator().manual_seed(seed)
    random = np.array([origin == "random" for origin in plan.origins])
    kept = np.array([origin == "copied" for origin in plan.origins])
    spread = _spread(old) if random.any() else None
    for start in range(0, len(plan.origins), _CHUNK):
        part = slice(start, start + _CHUNK)
        weights = plan.weights[part]
        used = np.unique(weights.indices)
        rows = torch.from_numpy(weights[:, used] @ old[torch.from_numpy(used)].float().numpy()).float()
        if spread is not None:
            noise = torch.randn(rows.shape, generator=drawn) * spread[1] + spread[0]
            rows = torch.where(torch.from_numpy(random[part])[:, None], noise, rows)
        if targets is not None:
            lengths = rows.norm(dim=1).clamp(min=1e-12)
            factors = torch.from_numpy(targets[part]).float() / lengths
            rows *= torch.where(torch.from_numpy(kept[part]), torch.ones_like(factors), factors)[:, None]
        yield rows.to(old.dtype).view(torch.uint8).numpy().tobytes()


def _spread(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each dimension."""
    mean = sum(part.double().sum(0) for part in torch.split(table, _CHUNK)) / len(table)
    square = sum(part.double().square().sum(0) for part in torch.split(table, _CHUNK)) / len(table)
    return torch.as_tensor(mean).float(), (square - torch.as_tensor(mean).square()).clamp(min=0).sqrt().float()


def _classes(documents: np.ndarray) -> np.ndarray:
    """Divide tokens into classes of equal size, from rare to frequent. Tokens that do not occur are in the first class."""
    occurring = np.flatnonzero(documents > 0)
    classes = np.zeros(len(documents), np.int64)
    order = occurring[np.argsort(documents[occurring], kind="stable")]
    classes[order] = np.arange(len(order)) * _CLASSES // max(1, len(order))
    return classes


def _medians(lengths: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the median length of the old rows in each class, over tokens that occur in the corpus."""
    classes, occurs = _classes(documents), documents > 0
    overall = float(np.median(lengths[occurs])) if occurs.any() else float(np.median(lengths))
    return np.array([
        np.median(lengths[mask]) if (mask := (classes == one) & occurs).any() else overall for one in range(_CLASSES)
    ])  # fmt: skip


def deciles(table: Tensor, documents: np.ndarray) -> list[float]:
    """Return the median length of rows in each frequency class, from the rarest tokens to the most frequent ones."""
    return [float(value) for value in _medians(lengths_of(table)[: len(documents)], documents)]
