"""What a training run will cost: memory by part, tokens, FLOP and hours, computed from shapes before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from pyterrier_csplade._errors import ConfigError

from ._shape import ModelShape


@dataclass(frozen=True)
class Gpu:
    """An accelerator.

    Attributes:
        name: What people call it.
        memory: Bytes.
        flops: bfloat16 FLOP/s that a large dense product reaches.
    """

    name: str
    memory: float
    flops: float


# Of the data sheets' dense bfloat16 peak, a large product reaches about 80% (790 of 989 TFLOP/s on an H200, measured).
_REACHED = 0.8
#: The accelerators that an estimate knows, with the data sheets' memory and dense bfloat16 peak.
GPUS = {
    key: Gpu(key, gigabytes * 1e9, _REACHED * tflops * 1e12)
    for key, gigabytes, tflops in (
        ("a100-40gb", 40, 312), ("a100-80gb", 80, 312), ("h100", 80, 989), ("h200", 141, 989), ("b200", 180, 2250),
        ("l40s", 48, 362), ("a10g", 24, 70), ("rtx-4090", 24, 165),
    )
}  # fmt: skip
#: Share of the attainable FLOP/s that a training step of a large model reaches as a rule. Ours; smaller batches reach less.
UTILISATION = 0.5
# Bytes of the streamed head's logits in flight: of pooling (see ``_pooling``), and of the loss of the adaptation phase (see
# ``_streamed_loss``), where six tensors of their size are alive at once (measured).
_POOLING_BLOCK = 2**23 * 4.0
_LOSS_BLOCKS = 6 * 2**26 * 4.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one process does in a step.

    Attributes:
        tokens: Real tokens that go through the backbone.
        live_tokens: Tokens whose activations are in memory at once, padding included.
        head_tokens: Tokens that go through the LM head (half of ``tokens`` for echo).
        texts: Representations that are in memory at once.
        length: Mean length of a sequence, for the cost of attention.
        every_logit: Whether the loss has a gradient for every logit (adaptation), not for the maxima alone.
        forwards: Forward passes without a graph that precede the step (1 with gradient caching).
    """

    tokens: float
    live_tokens: float
    head_tokens: float
    texts: float
    length: float
    every_logit: bool = False
    forwards: int = 0


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the weights are trained.

    Attributes:
        rank: Of LoRA; None trains all parameters.
        bf16: Mixed precision.
        checkpointing: Whether activations are recomputed.
        four_bit: Whether the frozen linear layers are nf4.
        shards: Processes over which weights, gradients and optimizer states are divided (FSDP); 1 for none.
    """

    rank: int | None
    bf16: bool
    checkpointing: bool
    four_bit: bool = False
    shards: int = 1


def find_gpu(name: str) -> Gpu:
    """Return an accelerator by its name.

    Raises:
        ConfigError: It is not known.
    """
    key = name.lower().replace(" ", "-").replace("_", "-")
    if key not in GPUS:
        raise ConfigError(f"unknown GPU {name!r}; known are {', '.join(GPUS)}")
    return GPUS[key]


def memory_parts(shape: ModelShape, method: Method, load: Load) -> dict[str, float]:
    """Estimate the bytes that each part of a step takes on one accelerator.

    Weights that are trained are float32 (and a bfloat16 copy for the products) with two float32 moments of AdamW; weights that
    LoRA freezes are bfloat16 in a bfloat16 run, or half a byte with nf4 (and 1/16 byte of scales: one float32 for 64 weights).
    Activations are counted from the graph of transformers' Llama with fused attention. A representation is held as arg-max,
    activation, weight and gradient.
    """
    trained = shape.adapted * method.rank if method.rank else shape.parameters
    frozen = shape.parameters if method.rank else 0
    frozen_bytes = 2 if method.bf16 else 4
    linear_bytes = 0.5625 if method.four_bit else frozen_bytes
    weights = linear_bytes * shape.backbone + frozen_bytes * shape.embeddings if frozen else 0.0
    return {
        "frozen weights": weights / method.shards,
        "trained weights": (6.0 if method.bf16 and not method.rank else 4.0) * trained / method.shards,
        "gradients": 4.0 * trained / method.shards,
        "optimizer": 8.0 * trained / method.shards,
        "activations": _activations(shape, method, load),
        "head": _head(shape, method, load),
        "representations": 16.0 * load.texts * shape.vocabulary,
    }


def _head(shape: ModelShape, method: Method, load: Load) -> float:
    """Logits in flight; a head that is trained also needs room for the gradient of a block beside the sum of gradients."""
    blocks = _LOSS_BLOCKS if load.every_logit else _POOLING_BLOCK
    if method.rank is not None:
        return blocks
    return blocks + (6.0 if method.bf16 and load.every_logit else 4.0) * shape.head


def _activations(shape: ModelShape, method: Method, load: Load) -> float:
    layer = layer_activation(shape, lora=method.rank is not None, bf16=method.bf16)
    if not method.checkpointing:
        return load.live_tokens * layer * shape.layers
    boundary = (2 if method.bf16 and method.rank is not None else 4) * shape.hidden
    return load.live_tokens * (boundary * shape.layers + layer)


def layer_activation(shape: ModelShape, *, lora: bool, bf16: bool) -> float:
    """Bytes that one layer of transformers' Llama keeps for the backward pass of one token.

    The norms keep their float32 input (and, where their weight is trained, what they multiply); attention its query, key, value
    and output; the feed-forward network the gate, its activation and the other factor. Each adapter keeps its input and a
    dropout mask of a byte; without adapters, every linear layer keeps its input.
    """
    size = 2 if bf16 else 4
    norms = 8 * shape.hidden if lora else 16 * shape.hidden
    attention = 4 * size * shape.hidden
    network = 3 * size * shape.intermediate
    inputs = (size + 1) * shape.adapted_inputs if lora else size * ((5 if bf16 else 2) * shape.hidden + shape.intermediate)
    return norms + attention + network + inputs


def step_flops(shape: ModelShape, method: Method, load: Load) -> float:
    """FLOP of one step of one process.

    A product costs two FLOP for each weight and token. The backward pass computes gradients of the inputs, and those of the
    weights too where they are trained; checkpointing and gradient caching repeat the forward pass. The backward pass of the
    streamed head is nearly free (it touches the winning positions alone), unless every logit has a gradient.
    """
    passes = 2 + (method.rank is None) + method.checkpointing + load.forwards
    head_passes = 1 + load.forwards + (1 + (method.rank is None) if load.every_logit else 0)
    attention = 4 * load.length * shape.hidden * shape.layers
    return load.tokens * (2 * shape.backbone + attention) * passes + load.head_tokens * 2 * shape.head * head_passes


def human_bytes(count: float) -> str:
    """Gigabytes for people, as the data sheets of accelerators count them."""
    return f"{count / 1e9:,.2f} GB" if count >= 5e6 else f"{count / 1e6:,.2f} MB"
