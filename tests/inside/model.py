"""Inside ``pyterrier_csplade.model``."""

from __future__ import annotations

from pyterrier_csplade.model import (
    attention,
    bases,
    csplade,
    encoder,
    head,
    hub,
    identity,
    int8_rows,
    onednn,
    screen,
    selftest,
    torch_internals,
    transformers_internals,
)
from pyterrier_csplade.model.card import write_card
from pyterrier_csplade.model.encoder import plan
from pyterrier_csplade.model.head import Entries, heaviest, max_logits, pooled_states, streamed_entries
from pyterrier_csplade.model.screen import mixed, rounding
from pyterrier_csplade.model.shipping import store_without_base
from pyterrier_csplade.model.sparse import in_order, sparse_vectors, to_impacts
from pyterrier_csplade.model.spelling import readable
from pyterrier_csplade.vectors.contract import CONTRACT_FILE, Variant

__all__ = [
    "CONTRACT_FILE", "Entries", "Variant", "attention", "bases", "csplade", "encoder", "head", "heaviest", "hub", "identity",
    "in_order", "int8_rows", "max_logits", "mixed", "onednn", "plan", "pooled_states", "readable", "rounding", "screen",
    "selftest", "sparse_vectors", "store_without_base", "streamed_entries", "to_impacts", "torch_internals",
    "transformers_internals", "write_card",
]  # fmt: skip
