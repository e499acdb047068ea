"""Encoding of many texts in batches of similar length, which become smaller when memory runs out."""

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
    """The encoders of one language model, which may have different contracts."""

    def __init__(self) -> None:
        self.number = 0
        self.turn = threading.Lock()


_USERS: WeakKeyDictionary[Any, _Users] = WeakKeyDictionary()

# From the error messages of the allocators of CUDA, ROCm, XPU, MPS, XLA and CPUs (Linux, Windows).
_OUT_OF_MEMORY = (
    "out of memory", "OUT_OF_MEMORY", "STATUS_ALLOC_FAILED", "can't allocate memory", "not enough memory", "MemoryAllocation",
    "OUT_OF_DEVICE_MEMORY", "OUT_OF_HOST_MEMORY", "RESOURCE_EXHAUSTED", "Failed to allocate",
)  # fmt: skip

# Tokens, with padding, that go through a CPU together; our choice (measured: larger products are no faster, and smaller batches
# have less padding). It does not depend on the number of threads, so that a run that resumes elsewhere has the same batches.
_TOKENS_ON_CPU = 1024
# Lengths of batches on a CPU are multiples of the first number, from the second on (short texts have few lengths, and would get
# much padding), because oneDNN keeps a compiled product for each shape; our choice (measured: half of the memory for 1 % more
# tokens).
_LENGTHS_ON_CPU, _LONG_ON_CPU = 4, 32
# Short texts that go through an accelerator together, as a multiple of the batch size: bounds the matrix [texts, vocabulary].
# Our choice (not measured).
_SHORT_TEXTS_ON_ACCELERATOR = 8


def plan(lengths: Sequence[int], tokens: int, texts: int) -> Iterator[slice]:
    """Divide sequences into batches of at most ``texts`` sequences and ``tokens`` tokens with padding.

    Args:
        lengths: Lengths of the sequences, the longest first. A sequence of more than ``tokens`` tokens gets a batch of its own.
        tokens: Largest number of tokens in a batch, padding included.
        texts: Largest number of sequences in a batch.
    """
    start = 0
    while start < len(lengths):
        size = max(1, min(texts, tokens // lengths[start]))
        yield slice(start, start + size)
        start += size


class BatchEncoder:
    """Runs token sequences through a backbone.

    Attributes:
        backbone: The loaded model.
        head: Which logits are computed: "streamed" all, "screened" those that an int8 product does not rule out (CPU only).
        token_limit: Tokens that are tried together after memory has run out; None while it has not.
    """

    def __init__(self, backbone: Backbone, head: Head | None = None) -> None:
        """Take a model.

        Args:
            backbone: The model.
            head: None takes "screened" on a CPU that multiplies int8 numbers fast (AVX-512 VNNI), "streamed" elsewhere.

        Raises:
            ValueError: There is no such head, or it does not run on the model's device.
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
            sequences: Token ids of each text; an empty sequence has an empty vector.
            batch_size: Sequences of the contract's document length that go through the model together; on an accelerator more,
                where they are shorter, on a CPU fewer, where they are long.
            names: Names of the sequences in error messages.
            wanted: What is kept of each text, and whether as weights or as impacts; all weights by default.
            advance: Called with the number of texts done since the last call.

        Returns:
            float32 weights above 0 or int32 impacts, [sequences, index terms], rows in the order of the sequences.

        Raises:
            DataError: There is not enough memory for one sequence alone, or a weight has no impact; names the sequence.
        """
        # Longest first: texts of similar length share a batch, and a batch that does not fit is noticed at once.
        filled = sorted((row for row, ids in enumerate(sequences) if ids), key=lambda row: -len(sequences[row]))
        advance(len(sequences) - len(filled))
        blocks = []
        for part in self.batches([len(sequences[row]) for row in filled], batch_size):
            blocks.append((filled[part], self._encode_rows(filled[part], sequences, names, wanted)))
            advance(len(filled[part]))
        return in_order(blocks, wanted.nothing(len(sequences), len(self.backbone.vocabulary)))

    def batches(self, lengths: Sequence[int], batch_size: int) -> Iterator[slice]:
        """Divide sequences into batches, while there is enough memory; ``lengths`` are theirs, the longest first."""
        device, tokens = self.backbone.device.type, batch_size * self.backbone.contract.document_length
        padded = [self.padded(length) for length in lengths]
        if device == "cpu":
            return plan(padded, min(tokens, _TOKENS_ON_CPU), batch_size)
        return plan(padded, tokens, batch_size * _SHORT_TEXTS_ON_ACCELERATOR)

    def padded(self, length: int) -> int:
        """Return the length of a batch whose longest text has ``length`` tokens; no more than a document may have."""
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
        # Outside of the handler, because the error's traceback holds the tensors of the failed batch.
        if self.backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        self.token_limit = tokens // 2
        return self._encode_rows(rows, sequences, names, wanted)

    @torch.inference_mode()
    def _encode_batch(self, sequences: Sequence[Sequence[int]], names: Sequence[str], wanted: Wanted) -> csr_matrix:
        batch = self.backbone.collate(sequences, tokens=self.padded(max(map(len, sequences))))
        # A packed row, a contract with another mask, and LongRoPE's tables change the language model while it runs.
        alone = self._users.number == 1 and not self.backbone.packs and not self.backbone.rotates_by_length
        with nullcontext() if alone else self._users.turn:
            hidden = self.backbone.hidden_states(batch["input_ids"], batch["attention_mask"])
        texts, states = pooled_states(hidden, batch["pool_mask"], self.padded)
        shape = len(sequences), len(self.backbone.vocabulary)
        if not len(texts):
            return wanted.nothing(*shape)
        found = self._entries(states, wanted.threshold)
        found = found._replace(rows=texts[found.rows])
        folded = self.backbone.contract.fold is not None
        return sparse_vectors(found, self.backbone.column_of_token, wanted, shape, names, folded=folded)

    @torch.inference_mode()
    def encode_states(self, states: torch.Tensor, names: Sequence[str], wanted: Wanted) -> csr_matrix:
        """Make vectors of states that stand for the last hidden states of the language model.

        Args:
            states: [texts, positions, width], on the model's device.
            names: Names of the texts in error messages.
            wanted: What is kept of each text, and whether as weights or as impacts.

        Returns:
            [texts, terms], as ``CSPLADE.encode_docs`` returns it.
        """
        shape = len(states), len(self.backbone.vocabulary)
        if not len(states):
            return wanted.nothing(*shape)
        found = self._entries(states, wanted.threshold)
        folded = self.backbone.contract.fold is not None
        return sparse_vectors(found, self.backbone.column_of_token, wanted, shape, names, folded=folded)

    def _entries(self, states: torch.Tensor, threshold: float) -> Entries:
        weight, finish = self.backbone.head.weight, self.backbone.finish_logits
        if self.head != "screened":
            return streamed_entries(states, weight, threshold, finish)
        # The model may be in training still: another state of the weights needs another screen.
        state = (weight.data_ptr(), weight.dtype, state_of(weight))
        if self._screen is None or self._screen[0] != state:
            self._screen = state, Screen(weight)
        return self._screen[1].entries(states, threshold, finish)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in _OUT_OF_MEMORY)
