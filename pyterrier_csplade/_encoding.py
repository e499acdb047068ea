"""Encoding of many texts: batches of like length, smaller ones when memory runs out, sparse results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from ._backbone import Backbone
from ._errors import DataError


class BatchEncoder:
    """Runs token sequences through a backbone.

    Attributes:
        backbone: The loaded model.
        largest_batch: Sequences that fitted into memory together after it had run out; None while it has not.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.largest_batch: int | None = None

    def encode(
        self,
        sequences: Sequence[Sequence[int]],
        batch_size: int,
        names: Sequence[str],
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> csr_matrix:
        """Encode token sequences.

        Args:
            sequences: Token ids of each text; an empty sequence has an empty vector.
            batch_size: Sequences that go through the model together.
            names: How a message calls each sequence.
            progress: Wraps the iteration over batches, for example a progress bar.

        Returns:
            float32 [sequences, index terms], weights above 0, rows in the order of the sequences.

        Raises:
            DataError: Memory does not suffice for one sequence alone; names it.
        """
        # Longest first: texts of like length share a batch, and a batch that does not fit shows at once.
        filled = sorted((row for row, ids in enumerate(sequences) if ids), key=lambda row: -len(sequences[row]))
        empty = [row for row, ids in enumerate(sequences) if not ids]
        starts = progress(range(0, len(filled), batch_size))
        blocks = [self._encode_rows(filled[start : start + batch_size], sequences, names) for start in starts]
        blocks.append(csr_matrix((len(empty), len(self.backbone.vocabulary)), dtype=np.float32))
        return vstack(blocks, format="csr", dtype=np.float32)[np.argsort([*filled, *empty], kind="stable")]

    def _encode_rows(self, rows: list[int], sequences: Sequence[Sequence[int]], names: Sequence[str]) -> csr_matrix:
        size = min(self.largest_batch or len(rows), len(rows))
        if size < len(rows):
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            return vstack([self._encode_rows(part, sequences, names) for part in parts], format="csr")
        try:
            with torch.inference_mode():
                return _to_csr(self.backbone(**self.backbone.collate([sequences[row] for row in rows])))
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(rows) == 1:
                name, tokens = names[rows[0]], len(sequences[rows[0]])
                raise DataError(f"{name}: memory does not suffice for one text of {tokens} tokens ({error})") from error
        self.largest_batch = len(rows) // 2
        return self._encode_rows(rows, sequences, names)


def _is_out_of_memory(error: Exception) -> bool:
    signs = ("CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in signs)


def _to_csr(weights: torch.Tensor) -> csr_matrix:
    """Move the entries above 0 of a dense matrix to the CPU."""
    row, column = weights.nonzero(as_tuple=True)
    values = weights[row, column].cpu().numpy()
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row.cpu().numpy(), minlength=len(weights)))])
    return csr_matrix((values, column.cpu().numpy().astype(np.int32), indptr), shape=tuple(weights.shape))
