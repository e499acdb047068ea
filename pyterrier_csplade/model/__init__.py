"""The language model as an encoder of sparse vectors. Names are imported when they are first used, because most need torch.

``CSPLADE`` is the class for users. Training and bulk encoding use the other names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyterrier_csplade._lazy import lazy

if TYPE_CHECKING:
    from .backbone import Backbone, TokenizedBatch
    from .csplade import CSPLADE
    from .encoder import BatchEncoder
    from .export import export_sentence_transformers
    from .head import activate, max_pool_logits
    from .hub import save_tokenizer
    from .loading import prepare_backbone
    from .onednn import fast_products
    from .pipelining import Behind, pipelined
    from .scorer import Scorer
    from .screen import Screen
    from .selftest import self_test
    from .sparse import Wanted
    from .transformers import DocEncoder, QueryEncoder

__all__ = [
    "CSPLADE", "Backbone", "BatchEncoder", "Behind", "DocEncoder", "QueryEncoder", "Scorer", "Screen", "TokenizedBatch",
    "Wanted", "activate", "export_sentence_transformers", "fast_products", "max_pool_logits", "pipelined", "prepare_backbone",
    "save_tokenizer", "self_test",
]  # fmt: skip

_MODULES = {
    "Backbone": "backbone", "BatchEncoder": "encoder", "Behind": "pipelining", "CSPLADE": "csplade",
    "DocEncoder": "transformers", "QueryEncoder": "transformers", "Scorer": "scorer", "Screen": "screen",
    "TokenizedBatch": "backbone", "Wanted": "sparse", "activate": "head", "export_sentence_transformers": "export",
    "fast_products": "onednn", "max_pool_logits": "head", "pipelined": "pipelining", "prepare_backbone": "loading",
    "save_tokenizer": "hub", "self_test": "selftest",
}  # fmt: skip

__getattr__, __dir__ = lazy(__name__, _MODULES)
