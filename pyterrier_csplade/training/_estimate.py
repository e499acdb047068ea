"""What a training run will cost: what it computes, and FLOP, from shapes before anything is loaded. Memory: ``_memory``."""

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
# Share of the attainable FLOP/s that a step reaches: of adaptation, and of contrastive training, whose texts are short. Ours,
# measured with an 8B model and adapters on an H200 (benchmarks/training_8b.py): 0.45 to 0.47 and 0.27 to 0.28.
_ADAPTATION, _CONTRASTIVE = 0.45, 0.27


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one process does in a step.

    Attributes:
        tokens: Real tokens that go through the backbone.
        live_tokens: Tokens whose graphs are in memory at once, padding included.
        head_tokens: Tokens that go through the LM head (half of ``tokens`` for echo).
        texts: Representations of the whole step.
        length: Mean length of a sequence, for the cost of attention.
        every_logit: Whether the loss has a gradient for every logit (adaptation), not for the maxima alone.
        forwards: Forward passes without a graph that precede the step (1 with gradient caching).
        part_tokens: Tokens of one forward pass, padding included; None for ``live_tokens``.
        live_texts: Representations whose graphs are in memory at once; None for ``texts``.
        accumulates: Whether all gradients exist while activations do: from an earlier part, or in buckets of DDP.
        active: Share of a text's terms that have a gradient. The default is that of a sparse model, 640 of 128,256.
    """

    tokens: float
    live_tokens: float
    head_tokens: float
    texts: float
    length: float
    every_logit: bool = False
    forwards: int = 0
    part_tokens: float | None = None
    live_texts: float | None = None
    accumulates: bool = False
    active: float = 0.005


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the weights are trained.

    Attributes:
        rank: Of LoRA; None trains all parameters.
        bf16: Mixed precision.
        checkpointing: Whether activations are recomputed.
        four_bit: Whether the frozen linear layers are nf4.
        shards: Processes over which weights, gradients and optimizer states are divided (FSDP); 1 for none.
        dropout: Whether the adapters have dropout.
    """

    rank: int | None
    bf16: bool
    checkpointing: bool
    four_bit: bool = False
    shards: int = 1
    dropout: bool = True


def find_gpu(name: str) -> Gpu:
    """Return an accelerator by its name.

    Raises:
        ConfigError: It is not known.
    """
    key = name.lower().replace(" ", "-").replace("_", "-")
    if key not in GPUS:
        raise ConfigError(f"unknown GPU {name!r}; known are {', '.join(GPUS)}")
    return GPUS[key]


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


def utilisation(load: Load) -> float:
    """Share of the attainable FLOP/s that a step reaches as a rule."""
    return _ADAPTATION if load.every_logit else _CONTRASTIVE


def human_bytes(count: float) -> str:
    """Gigabytes for people, as the data sheets of accelerators count them."""
    return f"{count / 1e9:,.2f} GB" if count >= 5e6 else f"{count / 1e6:,.2f} MB"
