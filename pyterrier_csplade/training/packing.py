"""Token sequences on disk: packed sequences of equal length, and passages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._warnings import warn

from .checkpoints import prepared

# Files in a run's directory: the token ids of the passages, and the end of each passage.
_PASSAGES, _ENDS = "passages.int32", "passages.ends.int64"


class PackedDataset(Dataset[dict[str, torch.Tensor]]):
    """Sequences of ``sequence_length`` token ids, cut from one long stream of documents.

    The stream is a memory-mapped file, so the data can be larger than the memory, and shuffling and resuming are free.
    """

    def __init__(self, tokens: np.ndarray, sequence_length: int) -> None:
        self.tokens = tokens[: len(tokens) // sequence_length * sequence_length].reshape(-1, sequence_length)
        if not len(self.tokens):
            raise DataError(
                f"the corpus has {len(tokens):,} tokens, fewer than one sequence of {sequence_length:,}: lower sequence_length"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.from_numpy(self.tokens[index].astype(np.int64))}


def pack_corpus(texts: Iterable[str], tokenizer: Any, path: Path, *, batch_size: int = 1000) -> np.ndarray:
    """Tokenise texts into one stream, each followed by the end-of-text token if there is one.

    The file ``path`` appears when it is complete. The paper does not name a separator of packed documents; the end-of-text
    token is our choice (not measured).

    Returns:
        The memory-mapped stream, int32.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    documents = blank = 0
    with prepared(path) as out:
        for batch in _batches(texts, batch_size):
            documents, blank = documents + len(batch), blank + sum(not text.strip() for text in batch)
            for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                out.write(np.asarray(ids + end, dtype=np.int32).tobytes())
        if not out.tell():
            raise DataError("the corpus is empty")
    if blank:
        warn(f"{blank:,} of {documents:,} documents of the corpus are blank")
    return np.memmap(path, dtype=np.int32, mode="r")


class PassageDataset(Dataset[list[int]]):
    """The memory-mapped passages that ``cut_passages`` wrote."""

    def __init__(self, directory: Path) -> None:
        """Open the files in a run's directory."""
        self.tokens = np.memmap(directory / _PASSAGES, dtype=np.int32, mode="r")
        self.ends = np.memmap(directory / _ENDS, dtype=np.int64, mode="r")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> list[int]:
        start = self.ends[index - 1] if index else 0
        ids: list[int] = self.tokens[start : self.ends[index]].tolist()
        return ids

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of a passage."""
        return len(self.tokens) / len(self)

    def blocks(self, size: int) -> Iterator[list[list[int]]]:
        """Yield all passages, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield [self[index] for index in range(start, min(start + size, len(self)))]


def cut_passages(
    texts: Iterable[str], tokenizer: Any, directory: Path, *, shortest: int, longest: int, seed: int, batch_size: int = 1000
) -> None:
    """Tokenise texts, and cut each into passages whose lengths are drawn uniformly.

    The rest of a text is left out when fewer than ``shortest`` tokens remain.

    Args:
        texts: The documents.
        tokenizer: The tokenizer, which adds no special tokens here.
        directory: A run's directory. The files appear when they are complete.
        shortest: Minimum tokens of a passage.
        longest: Maximum tokens of a passage.
        seed: Seed of the draws.
        batch_size: Number of texts to tokenise at once.

    Raises:
        DataError: No text has ``shortest`` tokens.
    """
    rng = np.random.default_rng(seed)
    documents = end = 0
    with prepared(directory / _PASSAGES) as tokens, prepared(directory / _ENDS) as ends:
        for batch in _batches(texts, batch_size):
            documents += len(batch)
            for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
                start = 0
                while len(ids) - start >= shortest:
                    passage = ids[start : start + int(rng.integers(shortest, longest + 1))]
                    tokens.write(np.asarray(passage, dtype=np.int32).tobytes())
                    start, end = start + len(passage), end + len(passage)
                    ends.write(np.int64(end).tobytes())
        if not end:
            raise DataError(f"none of the {documents:,} documents of the corpus has {shortest} tokens: lower passages.shortest")


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch
