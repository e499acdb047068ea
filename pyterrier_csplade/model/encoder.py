"""Encoding of many texts in batches of similar length. Batches become smaller when memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from scipy.sparse import csr_matrix, vstack

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.vectors.checks import check_choice

from .backbone import Backbone
from .head import Entries, pooled_states, streamed_entries
from .onednn import fast_products
from .screen import Screen
from .sparse import ALL, Wanted, in_order, sparse_vectors
from .torch_internals import multiplies_int8_fast, state_of

Head = Literal["streamed", "screened"]


class _Users:
    """The encoders that share one language model and may have different contracts."""

    def __init__(self) -> None:
        self.number = 0
        self.turn = threading.Lock()


_USERS: WeakKeyDictionary[Any, _Users] = WeakKeyDictionary()

# Parts of the error messages of the allocators of CUDA, ROCm, XPU, MPS, XLA and CPUs (Linux, Windows).
_OUT_OF_MEMORY = (
    "out of memory", "OUT_OF_MEMORY", "STATUS_ALLOC_FAILED", "can't allocate memory", "not enough memory", "MemoryAllocation",
    "OUT_OF_DEVICE_MEMORY", "OUT_OF_HOST_MEMORY", "RESOURCE_EXHAUSTED", "Failed to allocate",
)  # fmt: skip

# Tokens of a batch on a CPU, including padding; our choice (measured: larger products are no faster, and smaller batches have
# less padding). It does not depend on the number of threads, so that a run that resumes elsewhere has the same batches.
_TOKENS_ON_CPU = 1024
# On a CPU, the lengths of batches are multiples of the first number if they are at least the second, because oneDNN keeps a
# compiled product for each shape. Short texts have few lengths, and would get much padding. Our choice (measured: half of the
# memory for 1 % more tokens).
_LENGTHS_ON_CPU, _LONG_ON_CPU = 4, 32
# Largest number of short texts in a batch on an accelerator, as a multiple of the batch size, which bounds the matrix [texts,
# vocabulary]; our choice (not measured).
_SHORT_TEXTS_ON_ACCELERATOR = 8


def plan(lengths: Sequence[int], tokens: int, texts: int) -> Iterator[slice]:
    """Divide sequences into batches of at most ``texts`` sequences and ``tokens`` tokens, including padding.

    Args:
        lengths: Lengths of the sequences, in descending order. A sequence of more than ``tokens`` tokens gets a batch of its
            own.
        tokens: Maximum number of tokens in a batch, including padding.
        texts: Maximum number of sequences in a batch.
    """
    start = 0
    while start < len(lengths):
        size = max(1, min(texts, tokens // lengths[start]))
        yield slice(start, start + size)
        start += size


class BatchEncoder:
    """Encodes token sequences with a backbone.

    Attributes:
        backbone: The loaded model.
        head: "streamed" computes all logits, "screened" only those that an int8 product does not rule out (CPU only).
        token_limit: Maximum tokens of a batch since memory has run out; None before that.
    """

    def __init__(self, backbone: Backbone, head: Head | None = None) -> None:
        """Create an encoder.

        Args:
            backbone: The loaded model.
            head: None chooses "screened" on a CPU with fast int8 products (AVX-512 VNNI), and "streamed" elsewhere.

        Raises:
            ValueError: ``head`` is unknown or does not run on the model's device.
        """
        on_cpu = backbone.device.type == "cpu"
        if head == "screened" and not on_cpu:
            raise ValueError(f"head={head!r} does not run on {backbone.device}: leave head out")
        check_choice("head", head, get_args(Head))
        self.backbone = backbone
        self.head: Head = head or ("screened" if on_cpu and multiplies_int8_fast() else "streamed")
        self.token_limit: int | None = None
        self._screen: tuple[Any, Screen] | None = None
        self._users = _USERS.setdefault(backbone.model, _Users())
        self._users.number += 1

    def encode(
        self,
        sequences: Sequence[Sequence[int]],
        batch_size: int,
        names: Sequence[str],
        wanted: Wanted = ALL,
        *,
        advance: Callable[[int], Any] = lambda texts: None,
    ) -> csr_matrix:
        """Encode token sequences.

        Args:
            sequences: Token ids of each text. An empty sequence has an empty vector.
            batch_size: Sequences of the contract's document length in a batch. Batches hold more short sequences on an
                accelerator, and fewer long ones on a CPU.
            names: Names of the sequences in error messages.
            wanted: The weights to keep, and whether to return weights or impacts; all weights by default.
            advance: Function that is called with the number of texts completed since the last call.

        Returns:
            float32 weights above 0 or int32 impacts, [sequences, index terms], rows in the order of the sequences.

        Raises:
            DataError: There is not enough memory for a single sequence, or a weight cannot become an impact; the message names
                the sequence.
        """
        # Longest first, so that texts of similar length share a batch, and too large batches are noticed at the start.
        filled = sorted((row for row, ids in enumerate(sequences) if ids), key=lambda row: -len(sequences[row]))
        advance(len(sequences) - len(filled))
        blocks = []
        for part in self.batches([len(sequences[row]) for row in filled], batch_size):
            blocks.append((filled[part], self._encode_rows(filled[part], sequences, names, wanted)))
            advance(len(filled[part]))
        return in_order(blocks, wanted.nothing(len(sequences), len(self.backbone.vocabulary)))

    def batches(self, lengths: Sequence[int], batch_size: int) -> Iterator[slice]:
        """Divide sequences into batches, given their lengths in descending order."""
        device, tokens = self.backbone.device.type, batch_size * self.backbone.contract.document_length
        padded = [self.padded(length) for length in lengths]
        if device == "cpu":
            return plan(padded, min(tokens, _TOKENS_ON_CPU), batch_size)
        return plan(padded, tokens, batch_size * _SHORT_TEXTS_ON_ACCELERATOR)

    def padded(self, length: int) -> int:
        """Return the padded length of a batch whose longest text has ``length`` tokens, at most the maximum of a document."""
        if self.backbone.device.type != "cpu" or length < _LONG_ON_CPU:
            return length
        rounded = -(-length // _LENGTHS_ON_CPU) * _LENGTHS_ON_CPU
        return max(length, min(rounded, self.backbone.contract.document_length))

    def _encode_rows(
        self, rows: list[int], sequences: Sequence[Sequence[int]], names: Sequence[str], wanted: Wanted
    ) -> csr_matrix:
        lengths = [self.padded(len(sequences[row])) for row in rows]
        tokens = len(rows) * lengths[0]
        if self.token_limit is not None and tokens > self.token_limit and len(rows) > 1:
            parts = plan(lengths, self.token_limit, len(rows))
            return vstack([self._encode_rows(rows[part], sequences, names, wanted) for part in parts], format="csr")
        try:
            with fast_products(self.backbone.device, tokens):
                return self._encode_batch([sequences[row] for row in rows], [names[row] for row in rows], wanted)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(rows) == 1:
                size = len(sequences[rows[0]])
                message = f"{names[rows[0]]}: not enough memory for one text of {size} tokens ({error})"
                raise DataError(message) from error
        # Outside the handler, because the error's traceback keeps the tensors of the failed batch alive.
        if self.backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        self.token_limit = tokens // 2
        return self._encode_rows(rows, sequences, names, wanted)

    @torch.inference_mode()
    def _encode_batch(self, sequences: Sequence[Sequence[int]], names: Sequence[str], wanted: Wanted) -> csr_matrix:
        batch = self.backbone.collate(sequences, tokens=self.padded(max(map(len, sequences))))
        # Packing, another contract's mask and LongRoPE's tables change the language model during a forward pass.
        alone = self._users.number == 1 and not self.backbone.packs and not self.backbone.rotates_by_length
        with nullcontext() if alone else self._users.turn:
            hidden = self.backbone.hidden_states(batch["input_ids"], batch["attention_mask"])
        texts, states = pooled_states(hidden, batch["pool_mask"], self.padded)
        return self._vectors(states, texts, names, wanted)

    @torch.inference_mode()
    def encode_states(self, states: torch.Tensor, names: Sequence[str], wanted: Wanted) -> csr_matrix:
        """Compute vectors from states that replace the last hidden states of the language model.

        Args:
            states: [texts, positions, width], on the model's device.
            names: Names of the texts in error messages.
            wanted: The weights to keep, and whether to return weights or impacts.

        Returns:
            [texts, terms], as ``CSPLADE.encode_docs`` returns it.
        """
        return self._vectors(states, torch.arange(len(states), device=states.device), names, wanted)

    def _vectors(self, states: torch.Tensor, texts: torch.Tensor, names: Sequence[str], wanted: Wanted) -> csr_matrix:
        """Compute the vectors of all named texts, of which only ``texts`` have states."""
        shape = len(names), len(self.backbone.vocabulary)
        if not len(texts):
            return wanted.nothing(*shape)
        entries = self._entries(states, wanted.threshold)
        entries = entries._replace(rows=texts[entries.rows])
        folded = self.backbone.contract.fold is not None
        return sparse_vectors(entries, self.backbone.column_of_token, wanted, shape, names, folded=folded)

    def _entries(self, states: torch.Tensor, threshold: float) -> Entries:
        weight, finish = self.backbone.head.weight, self.backbone.finish_logits
        if self.head != "screened":
            return streamed_entries(states, weight, threshold, finish)
        # The model may still be in training. Changed weights need a new screen.
        state = (weight.data_ptr(), weight.dtype, state_of(weight))
        if self._screen is None or self._screen[0] != state:
            self._screen = state, Screen(weight)
        return self._screen[1].entries(states, threshold, finish)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in _OUT_OF_MEMORY)
