"""The configuration and the tensor names of models with fewer layers."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.vectors.contract import Layers

# Settings that are lists with one entry per layer.
_PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")


def kept_layers(config: Any, layers: Layers, name: str) -> list[int]:
    """Return the indices of the kept layers.

    Args:
        config: The configuration of the whole model.
        layers: Number of first layers to keep, or ascending indices of layers.
        name: The model's name in error messages.

    Raises:
        ContractError: The model does not have a layer; the message names the layer.
    """
    listed = isinstance(layers, (list, tuple))
    kept = [int(index) for index in layers] if isinstance(layers, (list, tuple)) else list(range(layers))
    count = config.get_text_config().num_hidden_layers
    if kept[-1] >= count:
        asked = f"layer {kept[-1]}" if listed else str(layers)
        raise ContractError(f"layers: {name} has {count} layers, numbered from 0 to {count - 1}, so {asked} cannot be kept")
    return kept


def cut_config(config: Any, layers: Layers, name: str) -> Any:
    """Return the configuration of a model with fewer layers; arguments and errors are the same as for :func:`kept_layers`."""
    kept = kept_layers(config, layers, name)
    cut = copy.deepcopy(config)
    text = cut.get_text_config()
    for setting in _PER_LAYER:
        values = getattr(text, setting, None)
        if isinstance(values, (list, tuple)):
            setattr(text, setting, [values[index] for index in kept])
    text.num_hidden_layers = len(kept)
    return cut


def new_names(config: Any, layers: Layers, name: str) -> Callable[[str], str | None]:
    """Return a function that maps a tensor's name in the whole model to its name in the cut model, None for dropped layers.

    Arguments and errors are the same as for :func:`kept_layers`. Raises a ContractError also if the model has no list of
    layers.
    """
    places = {old: new for new, old in enumerate(kept_layers(config, layers, name))}
    # Checkpoints may leave out the beginning of a path, so the pattern contains only the name of the list of layers.
    pattern = re.compile(rf"(^|\.){_list_of_layers(config, name)}\.(\d+)\.")

    def new_name(tensor: str) -> str | None:
        found = pattern.search(tensor)
        if found is None:
            return tensor
        place = places.get(int(found[2]))
        return None if place is None else f"{tensor[: found.start(2)]}{place}{tensor[found.end(2) :]}"

    return new_name


def _list_of_layers(config: Any, name: str) -> str:
    """Return the name of a model's list of layers, such as "layers" or "h"."""
    count = config.get_text_config().num_hidden_layers
    paths = [path for path, module in empty_model(config).named_modules()
             if isinstance(module, nn.ModuleList) and len(module) == count]  # fmt: skip
    if not paths:
        raise ContractError(f"layers: {name} has no list of {count} layers to choose from: leave layers out")
    return re.escape(min(paths, key=lambda path: path.count(".")).rpartition(".")[2])


def empty_model(config: Any) -> Any:
    """Build the model of a configuration without allocating its weights."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    finally:
        logger.setLevel(level)
