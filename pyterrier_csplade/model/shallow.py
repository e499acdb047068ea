"""A query encoder of some layers of a model, for the documents that the whole model encodes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.vectors.contract import LAYERS, Contract, Layers, are_layers

from .backbone import Backbone
from .layers import cut_config, kept_layers, new_names
from .transformers_internals import attention_of


def shallow_pair(backbone: Backbone, layers: Layers, name: str) -> tuple[Any, Contract]:
    """Return a language model of some layers, and its contract as an encoder of queries for the whole model's documents.

    The weights are those of the whole model, in the same memory: the kept layers, the final norm, embeddings and head. This is
    an early exit, which works poorly until it is trained (``distil_query``).

    Args:
        backbone: The whole model.
        layers: Number of the first layers to keep, or indices of layers, ascending.
        name: The model's name in error messages.

    Raises:
        ContractError: A layer does not exist, all layers are kept, or the model's weights are quantised or have an adapter.
    """
    lm = backbone.model
    if not are_layers(layers):
        raise ContractError(f"layers must be {LAYERS}, found {layers!r:.80}")
    if hasattr(lm, "merge_and_unload") or getattr(lm, "is_quantized", False):
        raise ContractError(f"{name}: layers of a quantised model, or of one with an adapter, cannot be taken: load it whole")
    kept = kept_layers(lm.config, layers, name)
    if len(kept) == lm.config.get_text_config().num_hidden_layers:
        raise ContractError(f"{name} has {len(kept)} layers, and all are kept: choose fewer")
    config = cut_config(lm.config, kept, name)
    with torch.device(lm.device):
        cut = AutoModelForCausalLM.from_config(
            config, dtype=lm.dtype, attn_implementation=attention_of(lm.config), trust_remote_code=False
        )
    new_name = new_names(lm.config, kept, name)
    named = ((new_name(old), values) for old, values in lm.state_dict().items())
    cut.load_state_dict({new: values for new, values in named if new is not None}, assign=True)
    cut.tie_weights()
    contract = backbone.contract.replace(
        queries_for=backbone.contract.fingerprint, weights="", other_weights="", layers=None, probes=(),
        training={"phase": "shallow", "layers": kept},
    )  # fmt: skip
    return cut.eval(), contract
