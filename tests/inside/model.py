"""Inside ``pyterrier_csplade.model``."""

from __future__ import annotations

from pyterrier_csplade.model import (
    attention,
    encoder,
    head,
    hub,
    identity,
    onednn,
    screen,
    selftest,
    torch_internals,
    transformers_internals,
)
from pyterrier_csplade.model.encoder import plan
from pyterrier_csplade.model.head import Entries, heaviest, max_logits, pooled_states, streamed_entries
from pyterrier_csplade.model.screen import mixed, rounding
from pyterrier_csplade.model.sparse import in_order, sparse_vectors, to_impacts
from pyterrier_csplade.vectors.contract import CONTRACT_FILE, Variant

__all__ = [
    "CONTRACT_FILE", "Entries", "Variant", "attention", "encoder", "head", "heaviest", "hub", "identity", "in_order",
    "max_logits", "mixed", "onednn", "plan", "pooled_states", "rounding", "screen", "selftest", "sparse_vectors",
    "streamed_entries", "to_impacts", "torch_internals", "transformers_internals",
]  # fmt: skip
