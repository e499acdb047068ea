"""The cost of a training run in FLOP and memory, estimated from shapes without loading a model."""

from __future__ import annotations

from dataclasses import dataclass

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.model.head import rows_in_block
from pyterrier_csplade.training.streamed_loss import LOGITS_IN_FLIGHT

from .shape import ModelShape


@dataclass(frozen=True)
class Gpu:
    """An accelerator.

    Attributes:
        name: Its name.
        memory: Bytes of memory.
        flops: FLOP/s that a large dense product in bfloat16 reaches.
    """

    name: str
    memory: float
    flops: float


# Share of the peak in the data sheets that a large dense bfloat16 product reaches; our choice (measured: 790 of 989 TFLOP/s on
# an H200).
_REACHED = 0.8
#: Accelerators by name, with the memory and the dense bfloat16 peak in their data sheets.
GPUS = {
    key: Gpu(key, gigabytes * 1e9, _REACHED * tflops * 1e12)
    for key, gigabytes, tflops in (
        ("a100-40gb", 40, 312), ("a100-80gb", 80, 312), ("h100", 80, 989), ("h200", 141, 989), ("b200", 180, 2250),
        ("l40s", 48, 362), ("a10g", 24, 70), ("rtx-4090", 24, 165),
    )
}  # fmt: skip
# Shares of the attainable FLOP/s that a step of adaptation and a step of contrastive training reach; our choice (measured: 0.45
# to 0.47 and 0.27 to 0.28 with an 8B model and adapters on an H200, benchmarks/training_8b.py).
_ADAPTATION, _CONTRASTIVE = 0.45, 0.27
# Bytes of the loss of the adaptation phase on an accelerator: six tensors of the size of a block of logits; our choice
# (measured: with it, the estimate for adaptation is 2 to 7 % above the peak on an H200).
_LOSS_BLOCKS = 6 * LOGITS_IN_FLIGHT["accelerator"] * 4.0
# Bytes per entry of a representation: with its graph (arg-max, ReLU and output, 4 each); while its gradient is computed (and
# the gradients of output and activation); and for all texts of a step (vectors, their gradient, its share of this process, and
# a copy in the loss or the outputs).
_IN_GRAPH, _GOING_BACK, _IN_STEP = 12.0, 16.0, 16.0

Parts = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Load:
    """The work of one process in a step.

    Attributes:
        tokens: Tokens in the backbone, without padding.
        live_tokens: Tokens whose graphs are in memory at the same time, including padding.
        head_tokens: Tokens in the LM head (half of ``tokens`` for echo).
        texts: Number of representations in the whole step.
        length: Mean length of a sequence, for the cost of attention.
        every_logit: Whether the loss has a gradient for every logit (adaptation) instead of the maxima only.
        forwards: Additional forward passes without a graph (1 with gradient caching).
        part_tokens: Tokens of one forward pass, including padding; None is ``live_tokens``.
        live_texts: Representations whose graphs are in memory at the same time; None is ``texts``.
        accumulates: Whether gradients of an earlier part, or DDP's buckets, exist at the same time as activations.
        active: Share of a text's terms that have a gradient. The default is for a sparse model, 640 of 128,256.
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
    """The method of training the weights.

    Attributes:
        rank: Rank of the LoRA adapters; None trains all parameters.
        bf16: Whether training uses mixed precision.
        checkpointing: Whether activations are recomputed.
        four_bit: Whether the frozen linear layers are stored in nf4.
        shards: Number of processes that share weights, gradients and optimizer states (FSDP); 1 without sharding.
        dropout: Whether the adapters have dropout.
        frozen_embeddings: Whether embeddings and head are frozen in training without adapters.
        lora_embeddings: Whether embeddings and head are trained in addition to adapters.
    """

    rank: int | None
    bf16: bool
    checkpointing: bool
    four_bit: bool = False
    shards: int = 1
    dropout: bool = True
    frozen_embeddings: bool = False
    lora_embeddings: bool = False

    @property
    def trains_head(self) -> bool:
        """Whether the LM head is trained."""
        return self.lora_embeddings or (self.rank is None and not self.frozen_embeddings)


def find_gpu(name: str) -> Gpu:
    """Return the accelerator with a name.

    Raises:
        ConfigError: ``GPUS`` has no such accelerator.
    """
    key = name.lower().replace(" ", "-").replace("_", "-")
    if key not in GPUS:
        raise ConfigError(f"unknown GPU {name!r}: choose one of {', '.join(GPUS)}")
    return GPUS[key]


def trained_parameters(shape: ModelShape, method: Method) -> int:
    """Return the number of trained parameters."""
    if method.rank:
        return shape.adapted * method.rank + (shape.embeddings if method.lora_embeddings else 0)
    return shape.backbone if method.frozen_embeddings else shape.parameters


def step_flops(shape: ModelShape, method: Method, load: Load) -> float:
    """Estimate the FLOP of a step of one process.

    A product costs two FLOP per weight and token. The backward pass computes the gradients of inputs and of trained weights.
    Checkpointing and gradient caching repeat the forward pass. The backward pass of the streamed head costs almost nothing,
    because it reads only the positions of the maxima, unless every logit has a gradient.
    """
    passes = 2 + (method.rank is None) + method.checkpointing + load.forwards
    head_passes = 1 + load.forwards + (1 + method.trains_head if load.every_logit else 0)
    attention = 4 * load.length * shape.hidden * shape.layers
    return load.tokens * (2 * shape.backbone + attention) * passes + load.head_tokens * 2 * shape.head * head_passes


def utilisation(load: Load) -> float:
    """Return the expected share of the attainable FLOP/s."""
    return _ADAPTATION if load.every_logit else _CONTRASTIVE


def human_bytes(count: float) -> str:
    """Format bytes in decimal units, as in data sheets of accelerators."""
    return f"{count / 1e9:,.2f} GB" if count >= 5e6 else f"{count / 1e6:,.2f} MB"


def memory_parts(shape: ModelShape, method: Method, load: Load) -> Parts:
    """Estimate the bytes of each part of a step on one accelerator at the peak of their sum.

    Trained weights are float32 (with a bfloat16 copy for the products) and have two float32 moments of AdamW. Weights that LoRA
    freezes are bfloat16 in a bfloat16 run, or half a byte with nf4 (and 1/16 byte for scales, a float32 per 64 weights). The
    optimizer, as chosen by transformers, is fused and in place, so it needs only its moments. The peak is at the end of the
    forward pass (the logits of the head and all activations), at the beginning of the backward pass (additional memory of the
    layers' backward passes), or at its end (all gradients). Parts that do not exist at the peak are 0.
    """
    trained = trained_parameters(shape, method)
    divided = whole = 0.0
    if method.rank:
        frozen = (0 if method.lora_embeddings else shape.embeddings) + (0 if method.four_bit else shape.backbone)
        divided = (2 if method.bf16 else 4) * frozen
        whole = 0.5625 * shape.backbone if method.four_bit else 0.0  # FSDP does not shard them
    elif method.frozen_embeddings:
        divided = 4.0 * shape.embeddings
    gradients = 4.0 * trained / method.shards
    stages = (_forward(shape, method, load), _turn(shape, method, load), _end(shape, method, load))
    for stage in stages if load.accumulates else stages[2:]:
        stage["gradients"] = gradients
    return {
        "frozen weights": divided / method.shards + whole,
        "trained weights": (6.0 if method.bf16 and not method.rank else 4.0) * trained / method.shards,
        "optimizer": 8.0 * trained / method.shards,
        **max(stages, key=lambda parts: sum(parts.values())),
    }


def _forward(shape: ModelShape, method: Method, load: Load) -> Parts:
    """Estimate the memory at the end of the forward pass, where the loss of the adaptation phase computes its gradients."""
    part = _part_tokens(load)
    if load.every_logit:  # with a trained head: the sum of gradients and the gradient of a block, also in bfloat16
        head = _LOSS_BLOCKS + _trained_head(shape, method) * (2.5 if method.bf16 else 2)
    else:  # a block of logits and the pooled states, which are bfloat16 if LoRA adapts a bfloat16 model
        size = 2.0 if method.bf16 and method.rank else 4.0
        rows = min(rows_in_block(max(1, int(part)), "cuda"), shape.vocabulary)
        head = size * part * (rows + shape.hidden)
    return {
        "gradients": 0.0,
        **_kept(shape, method, load, recomputed=0.0),
        "layer in flight": 0.0,
        "head": head,
        "representations": (_IN_STEP * load.texts if load.forwards else 0.0) * shape.vocabulary
        + _IN_GRAPH * _live_texts(load) * shape.vocabulary,
    }


def _turn(shape: ModelShape, method: Method, load: Load) -> Parts:
    """Estimate the memory at the beginning of the backward pass, between the head and the last layer."""
    part = _part_tokens(load)
    return {
        "gradients": _trained_head(shape, method),
        **_kept(shape, method, load, recomputed=part),
        "layer in flight": part * layer_in_flight(shape),
        "head": _head_backward(shape, method, load),
        "representations": (_IN_STEP * load.texts + _GOING_BACK * _live_texts(load)) * shape.vocabulary,
    }


def _end(shape: ModelShape, method: Method, load: Load) -> Parts:
    """Estimate the memory at the end of the backward pass, in the first layer; trained embeddings have a dense gradient."""
    part = _part_tokens(load)
    return {
        "gradients": 0.0,
        "activations": part * layer_activation(shape, lora=method.rank is not None, bf16=method.bf16, dropout=method.dropout),
        "attention": part * attention_activation(shape, load.length, bf16=method.bf16),
        "layer in flight": part * layer_in_flight(shape),
        "head": _trained_head(shape, method),
        "representations": _IN_STEP * load.texts * shape.vocabulary,
    }


def _live_texts(load: Load) -> float:
    return load.texts if load.live_texts is None else load.live_texts


def _part_tokens(load: Load) -> float:
    return load.live_tokens if load.part_tokens is None else load.part_tokens


def _trained_head(shape: ModelShape, method: Method) -> float:
    """Return the bytes of the dense float32 gradient of the head; 0 if it is frozen."""
    return 4.0 * shape.head if method.trains_head else 0.0


def _head_backward(shape: ModelShape, method: Method, load: Load) -> float:
    """Estimate the bytes of the rows of the head with a gradient in a part, as float32, and of a trained head's gradient."""
    share = _part_tokens(load) / load.live_tokens if load.live_tokens else 1.0
    rows = 0.0 if load.every_logit else min(1.0, load.active * _live_texts(load) * share)
    return rows * shape.head * (6.0 if method.bf16 and method.rank else 4.0) + _trained_head(shape, method)


def _kept(shape: ModelShape, method: Method, load: Load, *, recomputed: float) -> Parts:
    """Estimate what autograd keeps. With checkpointing, these are the layers' inputs and one layer of ``recomputed`` tokens."""
    lora = method.rank is not None
    layer = layer_activation(shape, lora=lora, bf16=method.bf16, dropout=method.dropout)
    attention = attention_activation(shape, load.length, bf16=method.bf16)
    ends = (4 if lora else 12) * shape.hidden * load.live_tokens  # input, product and output of the last norm
    if not method.checkpointing:
        tokens = load.live_tokens * shape.layers
        return {"activations": tokens * layer + ends, "attention": tokens * attention}
    inputs = (2 if method.bf16 and lora else 4) * shape.hidden * shape.layers * load.live_tokens
    return {"activations": inputs + recomputed * layer + ends, "attention": recomputed * attention}


def layer_activation(shape: ModelShape, *, lora: bool, bf16: bool, dropout: bool) -> float:
    """Estimate the bytes per token that a layer of transformers' Llama keeps, without ``attention_activation``.

    The norms keep their float32 input, and the factor of their weight if it is trained. Attention keeps query, key, value and
    output. The feed-forward network keeps the gate, its activation and the other factor. Each adapter keeps its input and, with
    dropout, a mask of one byte per value. In float32 without dropout, adapters share their inputs: the outputs of both norms
    and of attention, and the product of the feed-forward network. Without adapters, every linear layer keeps its input.
    """
    size = 2 if bf16 else 4
    norms = 8 * shape.hidden if lora else 16 * shape.hidden
    attention = 4 * size * shape.hidden
    network = 3 * size * shape.intermediate
    if not lora:
        inputs = size * ((5 if bf16 else 2) * shape.hidden + shape.intermediate)
    elif bf16 or dropout:
        inputs = (size + dropout) * shape.adapted_inputs
    else:
        inputs = size * min(shape.adapted_inputs, 2 * shape.hidden + shape.intermediate)
    return norms + attention + network + inputs


def attention_activation(shape: ModelShape, length: float, *, bf16: bool) -> float:
    """Estimate the bytes per token that attention keeps in one layer in proportion to the length of a sequence.

    Eager attention keeps the softmax of every head in float32, and a copy for the product in a bfloat16 run. torch's fused
    attention keeps the additive padding mask, one for all heads. Flash attention keeps neither.
    """
    if shape.attention == "eager":
        return (6.0 if bf16 else 4.0) * shape.heads * length
    return (2.0 if bf16 else 4.0) * length if shape.attention == "sdpa" else 0.0


def layer_in_flight(shape: ModelShape) -> float:
    """Estimate the bytes per token that the backward pass of a layer needs in addition to the kept activations.

    The peak is in the feed-forward network: a float32 gradient of the inner width, and three of the width of the residual
    stream (of the layer's output, around the network and through it).
    """
    return 4.0 * (shape.intermediate + 3 * shape.hidden)
