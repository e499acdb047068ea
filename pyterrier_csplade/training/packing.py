"""Token sequences of equal length, cut from running text and kept on disk."""

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


class PackedDataset(Dataset[dict[str, torch.Tensor]]):
    """Sequences of ``sequence_length`` token ids, cut from one long stream of documents.

    The stream is a memory-mapped file: the data may be larger than the memory, and shuffling and resuming cost nothing.
    """

    def __init__(self, tokens: np.ndarray, sequence_length: int) -> None:
        self.tokens = tokens[: len(tokens) // sequence_length * sequence_length].reshape(-1, sequence_length)
        if not len(self.tokens):
            raise DataError(f"the corpus has {len(tokens):,} tokens: fewer than one sequence of {sequence_length:,}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.from_numpy(self.tokens[index].astype(np.int64))}


def pack_corpus(texts: Iterable[str], tokenizer: Any, path: Path, *, batch_size: int = 1000) -> np.ndarray:
    """Tokenise texts into one stream, each followed by the end-of-text token if there is one.

    The file ``path`` appears when it is whole. The paper packs documents without giving a separator; the end-of-text token is
    our choice (not measured).

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


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch
