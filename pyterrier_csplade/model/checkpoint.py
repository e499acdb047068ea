"""Configuration and weights of a model or of some of its layers, from safetensors or a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cached_property
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import is_deepspeed_zero3_enabled

from pyterrier_csplade.vectors.contract import Layers

from .hub import is_gguf, source, weight_files
from .identity import digests, digests_of_files, saved_tensors, used_tensors
from .layers import cut_config, empty_model, kept_layers, new_names
from .transformers_internals import dequantised

T = TypeVar("T")


class Checkpoint:
    """A model by name, or some of its layers.

    Attributes:
        name: Hub id, directory, or GGUF file.
        revision: Revision of a hub model.
        layers: Number of first layers to keep, or ascending indices of the kept layers; None keeps all.
    """

    def __init__(self, name: str, revision: str | None = None, layers: Layers | None = None) -> None:
        self.name = name
        self.revision = revision
        self.layers = layers
        self._found: dict[str, str] | None = None

    def config(self) -> Any:
        """Read the configuration. With ``layers``, it describes the kept layers only.

        Raises:
            ContractError: The model does not have a layer, which is named; or the package gguf is needed and not installed.
        """
        return self._whole if self.layers is None else cut_config(self._whole, self.layers, self.name)

    @cached_property
    def _whole(self) -> Any:
        place, settings = source(self.name)
        config = AutoConfig.from_pretrained(place, **settings, revision=self.revision, trust_remote_code=False)
        if is_gguf(self.name) and hasattr(config, "quantization_config"):
            del config.quantization_config  # reading dequantises the weights
        return config

    def load(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        """Load the model from safetensors files or a GGUF file, never from pickles.

        Layers that are not kept never reach the device. The weights of a GGUF file are first dequantised in CPU memory, where
        each takes 4 bytes.

        Args:
            **settings: Arguments of transformers' ``from_pretrained``. For a GGUF file, the ``dtype`` "auto" means bfloat16.

        Returns:
            The model, and transformers' report on missing, mismatched and unexpected tensors.

        Raises:
            ContractError: The model does not have a layer, which is named; or the package gguf is needed and not installed.
        """
        settings["output_loading_info"] = True
        if self.layers is None and not is_gguf(self.name):
            loaded = AutoModelForCausalLM.from_pretrained(
                self.name, revision=self.revision, use_safetensors=True, trust_remote_code=False, **settings
            )
            return loaded[0], loaded[1]
        config = self.config()
        with ExitStack() as opened:
            tensors = self._dequantised() if is_gguf(self.name) else self._slices(opened)
            if is_gguf(self.name) and settings.get("dtype") == "auto":
                settings["dtype"] = torch.bfloat16
            architecture = type(empty_model(config))
            lm, report = architecture.from_pretrained(None, config=config, state_dict=tensors, **settings)
        lm.config.name_or_path = lm.name_or_path = self.name
        return lm, report

    def digests(self, lm: Any) -> dict[str, str]:
        """Digest the tensors of a model that :meth:`load` returned.

        The digests of a GGUF file are those of its dequantised weights, and the digests of a cut model are those of the kept
        layers. They equal the digests of a directory in which such a model was saved.
        """
        if self._found is None:
            found = digests_of_files(weight_files(self.name, self.revision), self.name)
            self._found = dict(self._kept(found.items(), self._whole))
        return used_tensors(lm, self._found)

    def _dequantised(self) -> dict[str, Tensor]:
        """Read a GGUF file into float32, up to the last kept layer."""
        first = self._whole
        if self.layers is not None:
            first = cut_config(first, kept_layers(first, self.layers, self.name)[-1] + 1, self.name)
        lm = dequantised(*source(self.name), first)
        tensors = dict(self._kept(saved_tensors(lm).items(), first))
        self._found = digests(tensors.items(), self.name)
        return tensors

    def _slices(self, opened: ExitStack) -> dict[str, Any]:
        """Open the files and return the kept tensors, which are read when they are needed."""
        places: dict[str, Any] = {}
        for path in weight_files(self.name, self.revision):
            file = opened.enter_context(safe_open(path, framework="pt"))
            places.update((key, file) for key in file.keys())  # noqa: SIM118
        read = "get_tensor" if is_deepspeed_zero3_enabled() else "get_slice"
        kept = self._kept(((key, (key, file)) for key, file in places.items()), self._whole)
        return {name: getattr(file, read)(key) for name, (key, file) in kept}

    def _kept(self, tensors: Iterable[tuple[str, T]], config: Any) -> list[tuple[str, T]]:
        """Select the tensors of kept layers, and rename them."""
        if self.layers is None:
            return list(tensors)
        new_name: Callable[[str], str | None] = new_names(config, self.layers, self.name)
        named = ((new_name(name), value) for name, value in tensors)
        return [(name, value) for name, value in named if name is not None]
