"""The memory of a training step by part, at the moment when most of it is in use.

Every term counts tensors that autograd or the step itself holds: what the process asks of its allocator. What an allocator
keeps of freed memory, libraries and their workspaces come on top.
"""

from __future__ import annotations

from ._estimate import Load, Method
from ._shape import ModelShape

# Logits of the streamed head in flight: of pooling (see ``_pooling``), and bytes of the loss of the adaptation phase on an
# accelerator (see ``_streamed_loss``), where six tensors of their size are alive at once (measured).
_POOLING_LOGITS = 2**23
_LOSS_BLOCKS = 6 * 2**26 * 4.0
# Bytes for each entry of a representation. With its graph: arg-max, ReLU and output, 4 each; while its gradient goes back, the
# gradient by the output and by the activation besides. Of the whole step: vectors, their gradient, its shares, and a copy in
# the loss or the outputs.
_IN_GRAPH, _GOING_BACK, _IN_STEP = 12.0, 16.0, 16.0

Parts = dict[str, float]


def memory_parts(shape: ModelShape, method: Method, load: Load) -> Parts:
    """Estimate the bytes that each part of a step takes on one accelerator when the sum is largest.

    Weights that are trained are float32 (and a bfloat16 copy for the products) with two float32 moments of AdamW; weights that
    LoRA freezes are bfloat16 in a bfloat16 run, or half a byte with nf4 (and 1/16 byte of scales: one float32 for 64 weights).
    The optimizer is fused and in place, as transformers chooses it: it needs no memory beside its moments. The sum is largest
    at the end of the forward pass (the head's logits beside all activations), at the beginning of the backward pass (what the
    layers' backward passes need beside them), or at its end (all gradients); parts that do not exist then are 0.
    """
    trained = shape.adapted * method.rank if method.rank else shape.parameters
    frozen = shape.parameters if method.rank else 0
    frozen_bytes = 2 if method.bf16 else 4
    divided = frozen_bytes * (shape.embeddings + (0 if method.four_bit else shape.backbone)) if frozen else 0.0
    whole = 0.5625 * shape.backbone if frozen and method.four_bit else 0.0  # FSDP leaves bytes as they are
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
    """The end of the forward pass; the loss of the adaptation phase computes its gradients there."""
    part = _part_tokens(load)
    if load.every_logit:  # a head that is trained: the sum of gradients, and that of a block, in bfloat16 as well
        head = _LOSS_BLOCKS + _trained_head(shape, method) * (2.5 if method.bf16 else 2)
    else:  # a block of logits, and the states that are pooled; a bfloat16 model that LoRA adapts ends in bfloat16
        size = 2.0 if method.bf16 and method.rank else 4.0
        head = size * (min(_POOLING_LOGITS, part * shape.vocabulary) + part * shape.hidden)
    return {
        "gradients": 0.0,
        **_kept(shape, method, load, recomputed=0.0),
        "layer in flight": 0.0,
        "head": head,
        "representations": (_whole(load) if load.forwards else 0.0) * shape.vocabulary
        + _IN_GRAPH * _live_texts(load) * shape.vocabulary,
    }


def _turn(shape: ModelShape, method: Method, load: Load) -> Parts:
    """The beginning of the backward pass: the head is done, the last layer begins."""
    part = _part_tokens(load)
    return {
        "gradients": _trained_head(shape, method),
        **_kept(shape, method, load, recomputed=part),
        "layer in flight": part * layer_in_flight(shape),
        "head": _head_backward(shape, method, load),
        "representations": (_whole(load) + _GOING_BACK * _live_texts(load)) * shape.vocabulary,
    }


def _end(shape: ModelShape, method: Method, load: Load) -> Parts:
    """The end of the backward pass: one layer is left, and a dense gradient of the embeddings if they are trained."""
    part = _part_tokens(load)
    return {
        "gradients": 0.0,
        "activations": part * layer_activation(shape, lora=method.rank is not None, bf16=method.bf16, dropout=method.dropout),
        "attention": part * attention_activation(shape, load.length, bf16=method.bf16),
        "layer in flight": part * layer_in_flight(shape),
        "head": _trained_head(shape, method),
        "representations": _whole(load) * shape.vocabulary,
    }


def _whole(load: Load) -> float:
    return _IN_STEP * load.texts


def _live_texts(load: Load) -> float:
    return load.texts if load.live_texts is None else load.live_texts


def _part_tokens(load: Load) -> float:
    return load.live_tokens if load.part_tokens is None else load.part_tokens


def _trained_head(shape: ModelShape, method: Method) -> float:
    """Bytes of a dense float32 gradient of the head."""
    return 0.0 if method.rank else 4.0 * shape.head


def _head_backward(shape: ModelShape, method: Method, load: Load) -> float:
    """The rows of the head whose terms have a gradient in a part, as float32, and a trained head's gradient beside its sum."""
    share = _part_tokens(load) / load.live_tokens if load.live_tokens else 1.0
    rows = 0.0 if load.every_logit else min(1.0, load.active * _live_texts(load) * share)
    return rows * shape.head * (6.0 if method.bf16 and method.rank else 4.0) + _trained_head(shape, method)


def _kept(shape: ModelShape, method: Method, load: Load, *, recomputed: float) -> Parts:
    """What autograd keeps from the forward pass; with checkpointing, the layers' inputs and one layer of some tokens."""
    lora = method.rank is not None
    layer = layer_activation(shape, lora=lora, bf16=method.bf16, dropout=method.dropout)
    attention = attention_activation(shape, load.length, bf16=method.bf16)
    ends = (4 if lora else 12) * shape.hidden * load.live_tokens  # input and product of the last norm, and its output
    if not method.checkpointing:
        tokens = load.live_tokens * shape.layers
        return {"activations": tokens * layer + ends, "attention": tokens * attention}
    inputs = (2 if method.bf16 and lora else 4) * shape.hidden * shape.layers * load.live_tokens
    return {"activations": inputs + recomputed * layer + ends, "attention": recomputed * attention}


def layer_activation(shape: ModelShape, *, lora: bool, bf16: bool, dropout: bool) -> float:
    """Bytes that one layer of transformers' Llama keeps for the backward pass of one token, without ``attention_activation``.

    The norms keep their float32 input (and, where their weight is trained, what they multiply); attention its query, key, value
    and output; the feed-forward network the gate, its activation and the other factor. Each adapter keeps its input and, with
    dropout, a mask of a byte; in float32 without dropout, adapters share what they read: the outputs of both norms, attention
    and the product of the feed-forward network. Without adapters, every linear layer keeps its input.
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
    """Bytes that grow with the length of a sequence which attention keeps, for one token of one layer.

    Eager attention keeps the softmax of every head, which it computes in float32, and in bfloat16 a copy for the product;
    torch's fused attention the mask of padding as an addend of each layer, one for all heads; flash attention neither.
    """
    if shape.attention == "eager":
        return (6.0 if bf16 else 4.0) * shape.heads * length
    return (2.0 if bf16 else 4.0) * length if shape.attention == "sdpa" else 0.0


def layer_in_flight(shape: ModelShape) -> float:
    """Bytes for one token that the backward pass of a layer needs beside what was kept.

    The largest moment is in the feed-forward network: a gradient of its inner width, and three of the residual stream's (that
    of the layer's output, what comes past the network and what comes out of it), float32.
    """
    return 4.0 * (shape.intermediate + 3 * shape.hidden)
