"""The shape of a model, read from its configuration without weights or an accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.model.checkpoint import Checkpoint
from pyterrier_csplade.model.hub import is_gguf
from pyterrier_csplade.model.layers import cut_config, empty_model
from pyterrier_csplade.model.transformers_internals import attention_of
from pyterrier_csplade.training.run import check_target_modules, linear_layers
from pyterrier_csplade.vectors.contract import Layers

# Published configurations of the models in the recipes, for machines that cannot reach the hub or have no licence yet.
_LLAMA: dict[str, Any] = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072}
_LLAMA_8B = _LLAMA | {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
}  # fmt: skip
_PUBLISHED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": _LLAMA
    | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"tie_word_embeddings": True},
    "meta-llama/Llama-3.2-3B": _LLAMA
    | {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}
    | {"head_dim": 128, "tie_word_embeddings": True},
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Meta-Llama-3-8B": _LLAMA_8B | {"max_position_embeddings": 8192},
}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model for an estimate.

    Attributes:
        layers: Number of layers.
        hidden: Width of the residual stream.
        intermediate: Width of the feed-forward network.
        vocabulary: Number of rows of the LM head.
        backbone: Parameters of the linear layers without the head. A token costs twice as many FLOP.
        embeddings: All other parameters: input embeddings, head (counted once if tied), norms.
        adapted: Parameters of a LoRA adapter of rank 1.
        adapted_inputs: Sum of the input widths of the linear layers with an adapter, in one layer.
        positions: Maximum length of a sequence; None if unlimited.
        heads: Number of attention heads (of the query) in a layer.
        attention: Attention implementation in transformers: "eager", "sdpa" or a kind of flash attention.
    """

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    backbone: int
    embeddings: int
    adapted: int
    adapted_inputs: int
    positions: int | None
    heads: int
    attention: str

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        return self.backbone + self.embeddings

    @property
    def head(self) -> int:
        """Parameters of the LM head."""
        return self.hidden * self.vocabulary


def read_model_config(model: str, revision: str | None, layers: Layers | None = None) -> tuple[Any, bool]:
    """Read the configuration of a model, or of some of its layers.

    Returns:
        The configuration, and whether it comes from this file because the hub cannot be reached.

    Raises:
        ConfigError: The directory or a layer does not exist, or the hub cannot be reached and this file does not contain the
            model.
    """
    path = Path(model)
    looks_local = path.exists() or path.is_absolute() or model.count("/") != 1 or model.startswith((".", "runs/", "build/"))
    if looks_local and not (path if is_gguf(model) else path / "config.json").is_file():
        raise ConfigError(
            f"model {model}: there is no {'file' if is_gguf(model) else 'directory'} of this name"
            f"{'' if is_gguf(model) else ' with a config.json'}. If another run creates it, start that run first"
        )
    try:
        return Checkpoint(model, revision, layers).config(), False
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, StrictDataclassError) as error:
        if model in _PUBLISHED:
            published = LlamaConfig(**_PUBLISHED[model])
            return published if layers is None else cut_config(published, layers, model), True
        raise ConfigError(f"model {model}: its configuration cannot be read ({' '.join(str(error).split())[:160]})") from error


def model_shape(config: Any, target_modules: Sequence[str] = ()) -> ModelShape:
    """Return the shape of the model of a configuration, built without allocating its weights.

    Args:
        config: A transformers configuration.
        target_modules: Names of the layers with a LoRA adapter.

    Raises:
        ConfigError: A target module does not exist, or the architecture is not a causal language model.
    """
    try:
        model = empty_model(config)
    except ValueError as error:
        raise ConfigError(
            f"{type(config).__name__} is not a causal language model ({' '.join(str(error).split())[:120]})"
        ) from error
    head = model.get_output_embeddings()
    linear = linear_layers(model)
    text = config.get_text_config()
    targets = [m for name, m in linear.items() if name.rpartition(".")[2] in target_modules]
    check_target_modules(linear, target_modules)
    backbone = sum(module.weight.numel() for module in linear.values())
    return ModelShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or getattr(text, "ffn_dim", None) or 4 * text.hidden_size,
        vocabulary=head.weight.shape[0],
        backbone=backbone,
        embeddings=sum(p.numel() for p in model.parameters()) - backbone,
        adapted=sum(m.in_features + m.out_features for m in targets),
        adapted_inputs=sum(m.in_features for m in targets) // text.num_hidden_layers,
        positions=getattr(text, "max_position_embeddings", None),
        heads=text.num_attention_heads,
        attention=attention_of(model.config),
    )
