"""The estimate of a step's memory against the bytes that autograd keeps and that torch's allocator provides."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from inside.planning import Backbone, GradientCache, add_lora, attention_activation, layer_activation
from pyterrier_csplade import Contract
from pyterrier_csplade.training import LoraSettings
from pyterrier_csplade.training.planning import Load, Method, ModelShape, memory_parts, model_shape
from support import models

KEPT = ("frozen weights", "trained weights", "optimizer")
SIZES = {"hidden_size": 64, "intermediate_size": 224, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}


def config(layers: int, attention: str, **sizes: int) -> LlamaConfig:
    return LlamaConfig(num_hidden_layers=layers, attn_implementation=attention, **{**SIZES, **sizes})


def make_shape(layers: int, attention: str, *, lora: bool, **sizes: int) -> ModelShape:
    return model_shape(config(layers, attention, **sizes), LoraSettings().target_modules if lora else ())


def saved_bytes(layers: int, length: int, attention: str, *, lora: bool, bf16: bool, padded: bool) -> int:
    """Count what autograd keeps of a forward pass over four texts, without parameters."""
    model: Any = AutoModelForCausalLM.from_config(config(layers, attention))
    if lora:
        model = add_lora(model.to(torch.bfloat16) if bf16 else model, LoraSettings(rank=2, dropout=0.0))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    backbone = (model.get_base_model() if lora else model).model
    ids, mask = torch.zeros(4, length, dtype=torch.long), torch.ones(4, length, dtype=torch.long)
    mask[0, -1] = not padded
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        backbone(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def saved_by_a_layer(length: int, attention: str, *, lora: bool, bf16: bool, padded: bool) -> float:
    """Count the bytes per token."""
    two, one = (saved_bytes(n, length, attention, lora=lora, bf16=bf16, padded=padded) for n in (2, 1))
    return (two - one) / (4 * length)


@pytest.mark.parametrize(("lora", "bf16"), [(True, True), (True, False), (False, True), (False, False)])
def test_activations_against_what_autograd_keeps(lora: bool, bf16: bool) -> None:
    measured = saved_by_a_layer(70, "sdpa", lora=lora, bf16=bf16, padded=False)
    estimated = layer_activation(make_shape(1, "sdpa", lora=lora), lora=lora, bf16=bf16, dropout=False)
    assert estimated == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_attention_keeps_grows_with_the_length(attention: str, bf16: bool) -> None:
    """Per additional token: the probabilities of every head if attention is eager, an entry of the mask if it is fused."""
    short, long = (saved_by_a_layer(n, attention, lora=True, bf16=bf16, padded=True) for n in (64, 192))
    shape = make_shape(1, attention, lora=True)
    assert shape.attention == attention and shape.heads == 4
    # The bfloat16 copies of the adapters' weights, 5 kB at any length, weigh more per token of short texts.
    assert attention_activation(shape, 128, bf16=bf16) == pytest.approx(long - short, rel=0.06 if bf16 else 0.02)


def peak_bytes(step: Callable[[], Any], folder: Path) -> int:
    """Return the peak of the allocated bytes in addition to those at the beginning."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = [e for e in json.loads((folder / "trace.json").read_text())["traceEvents"] if e["name"] == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


def trained_step(model: Any, parts: Sequence[dict[str, Tensor]], backbone: Backbone, *, keep_graphs: bool) -> None:
    """Encode, and propagate the gradient of a loss that depends on one of 200 terms."""
    cache = GradientCache(Accelerator(cpu=True), backbone, keep_graphs=keep_graphs)
    vectors = cache.encode(parts)
    cache.backward(torch.autograd.grad(vectors[:, ::200].square().sum(), vectors)[0])


# Any two settings are together in one of the quick cases; the slow suite has all.
STEPS = list(itertools.product([False, True], [False, True], [False, True], ["eager", "sdpa"]))
PAIRS = {(False, False, False, "eager"), (False, True, True, "sdpa"), (True, False, True, "sdpa"), (True, True, False, "sdpa")}
PAIRS.add((True, True, True, "eager"))


@pytest.mark.parametrize(
    ("cached", "lora", "checkpointing", "attention"),
    [step if step in PAIRS else pytest.param(*step, marks=pytest.mark.slow) for step in STEPS],
)
def test_peak_of_a_step(cached: bool, lora: bool, checkpointing: bool, attention: str, tmp_path: Path) -> None:
    """Four parts of four texts of up to 100 tokens; the estimate is within a fifth of the allocated bytes."""
    torch.manual_seed(0)
    tokenizer = models.tokenizer()
    sizes = {"hidden_size": 128, "intermediate_size": 384, "vocab_size": len(tokenizer)}
    model: Any = AutoModelForCausalLM.from_config(config(4, attention, **sizes))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model = (add_lora(model, LoraSettings(rank=4, dropout=0.0)) if lora else model).train()
    backbone = Backbone(model, tokenizer, Contract())
    parts = [backbone.collate([[5] * 100, [6] * 100, [7] * 98, [8] * 97]) for _ in range(4)]
    measured = peak_bytes(lambda: trained_step(model, parts, backbone, keep_graphs=not cached), tmp_path)
    shape = make_shape(4, attention, lora=lora, **sizes)
    method = Method(rank=4 if lora else None, bf16=False, checkpointing=checkpointing, dropout=False)
    load = Load(
        tokens=1600, live_tokens=400 if cached else 1600, head_tokens=1600, texts=16, length=100, part_tokens=400,
        live_texts=4 if cached else 16, accumulates=cached, forwards=int(cached),
    )  # fmt: skip
    estimated = memory_parts(shape, method, load)
    assert sum(size for part, size in estimated.items() if part not in KEPT) == pytest.approx(measured, rel=0.2), estimated
