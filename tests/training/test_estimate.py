"""The estimate of a run's cost against values computed by hand and values measured in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inside.planning import add_lora
from pyterrier_csplade import ConfigError
from pyterrier_csplade.training import LoraSettings
from pyterrier_csplade.training.planning import GPUS, Load, Method, memory_parts, model_shape, read_model_config, step_flops
from support import models
from support.paths import ROOT

PROJECTIONS = LoraSettings().target_modules


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    """No network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


LLAMAS = {
    "meta-llama/Llama-3.2-1B": (1.236, 1.95, 0.53),
    "meta-llama/Llama-3.2-3B": (3.213, 5.65, 0.79),
    "meta-llama/Llama-3.1-8B": (8.030, 13.98, 1.05),
}


@pytest.mark.parametrize("name", LLAMAS)
def test_shapes_of_the_published_models(name: str) -> None:
    """Billions of parameters as published; GFLOP per token in backbone and head as computed independently."""
    config, published = read_model_config(name, None)
    shape = model_shape(config, PROJECTIONS)
    parameters, backbone, head = LLAMAS[name]
    assert published
    assert shape.parameters / 1e9 == pytest.approx(parameters, abs=0.001)
    assert 2 * shape.backbone / 1e9 == pytest.approx(backbone, rel=0.003)
    assert 2 * shape.head / 1e9 == pytest.approx(head, rel=0.01)


def test_adapters_are_counted_as_peft_makes_them() -> None:
    model = models.language_model()
    shape = model_shape(model.config, PROJECTIONS)
    adapted = add_lora(model, LoraSettings(rank=4))
    assert shape.adapted * 4 == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    with pytest.raises(
        ConfigError, match="target_modules: the model has no 'query_proj'; its linear layers: down_proj, .*q_proj"
    ):
        model_shape(models.language_model().config, ["query_proj"])


def test_frozen_embeddings_need_memory_but_no_gradient() -> None:
    shape = model_shape(models.language_model().config, PROJECTIONS)
    load = Load(texts=1, tokens=16, length=16, head_tokens=16, forwards=0, every_logit=True, accumulates=True, live_tokens=16)
    trained, frozen = (
        memory_parts(shape, Method(rank=None, bf16=False, checkpointing=False, frozen_embeddings=on), load)
        for on in (False, True)
    )
    assert frozen["frozen weights"] == 4 * shape.embeddings
    assert frozen["optimizer"] == 8 * shape.backbone == trained["optimizer"] - 8 * shape.embeddings


@pytest.mark.parametrize("name", ["llama-tied", "opt", "gpt_neox"])
def test_every_parameter_is_counted_once(name: str) -> None:
    model = models.language_model(name)
    assert model_shape(model.config).parameters == sum(p.numel() for p in model.parameters())


def test_hours_of_the_papers_runs_on_an_h200() -> None:
    """Lower bounds computed by hand for 608 million tokens at 790 TFLOP/s: 9.2 h with checkpointing, 6.2 h without."""
    shape = model_shape(read_model_config("meta-llama/Llama-3.1-8B", None)[0], PROJECTIONS)
    load = Load(tokens=1, live_tokens=1, head_tokens=1, texts=1, length=0)
    for checkpointing, hours in ((True, 9.2), (False, 6.2)):
        method = Method(rank=16, bf16=True, checkpointing=checkpointing)
        assert 608e6 * step_flops(shape, method, load) / (GPUS["h200"].flops * 3600) == pytest.approx(hours, rel=0.02)
    full = Method(rank=None, bf16=True, checkpointing=False)
    assert step_flops(shape, full, load) == 6 * shape.backbone + 2 * shape.head
    cached = Load(tokens=1, live_tokens=1, head_tokens=1, texts=1, length=0, forwards=1)
    assert step_flops(shape, full, cached) == 8 * shape.backbone + 4 * shape.head
    logits = Load(tokens=1, live_tokens=1, head_tokens=1, texts=0, length=0, every_logit=True)
    assert step_flops(shape, full, logits) == 6 * shape.backbone + 6 * shape.head


def test_memory_by_part() -> None:
    shape = model_shape(read_model_config("meta-llama/Llama-3.1-8B", None)[0], PROJECTIONS)
    load = Load(tokens=1, live_tokens=1000, head_tokens=1, texts=544, length=75)
    lora = memory_parts(shape, Method(rank=16, bf16=True, checkpointing=True), load)
    assert lora["frozen weights"] == 2 * shape.parameters
    assert lora["optimizer"] == 2 * lora["trained weights"] == 8 * 16 * shape.adapted
    assert lora["representations"] == 544 * 128256 * 32  # at the beginning of the backward pass
    assert lora["activations"] < memory_parts(shape, Method(rank=16, bf16=True, checkpointing=False), load)["activations"] / 10
    full = memory_parts(shape, Method(rank=None, bf16=False, checkpointing=True), load)
    assert full["frozen weights"] == 0
    assert full["head"] == 4 * shape.head  # at the end of the backward pass, a dense gradient of the embeddings
    assert sum(full[part] for part in ("trained weights", "gradients", "optimizer")) == 16 * shape.parameters
    nf4 = memory_parts(shape, Method(rank=16, bf16=True, checkpointing=True, four_bit=True), load)["frozen weights"]
    assert 5.5e9 < nf4 < 6.5e9
    sharded = memory_parts(shape, Method(rank=16, bf16=True, checkpointing=True, shards=8), load)
    assert sharded["frozen weights"] * 8 == lora["frozen weights"]
    assert sharded["activations"] == lora["activations"]
    both = memory_parts(shape, Method(rank=16, bf16=True, checkpointing=True, four_bit=True, shards=8), load)["frozen weights"]
    assert nf4 - both == pytest.approx(2 * shape.embeddings * 7 / 8), "every process holds the 4-bit weights"


PEAK = """
import re
import torch
from inside.training import streamed_prediction_loss
torch.set_num_threads(1)
terms, width, positions = 100_000, 256, 256
weight = torch.empty(terms, width).normal_()
hidden = torch.empty(positions, width).normal_().requires_grad_()
targets = torch.randint(terms, (positions,))
torch.randn(64, width) @ weight[:100].T
def peak():  # unlike getrusage's, without the peak of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
for trained in (False, True):
    weight.requires_grad_(trained)
    open("/proc/self/clear_refs", "w").write("5")  # the peak is now what the process holds
    before = peak()
    streamed_prediction_loss(hidden, weight, targets, 1.0)[0].backward()
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_of_the_head_in_adaptation() -> None:
    """Measured in its own process: the logits of all positions would take 100 MB, and their gradients 100 MB more."""
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, env=paths)
    head, blocks = 4 * 100_000 * 256, 6 * 2**23 * 4
    frozen, trained = map(int, done.stdout.split())
    assert 0.7 < frozen / blocks < 1.3
    assert 0.7 < trained / (2 * head + blocks) < 1.3, "the gradient, and a part of it"
