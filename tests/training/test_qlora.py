"""Training over frozen weights of 4 bits, and what merging changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inside.training import adaptation, contrastive, load_tokenizer_and_model
from pyterrier_csplade import CSPLADE, ConfigError, Contract
from pyterrier_csplade.model import Backbone
from pyterrier_csplade.training import adapt, train
from support import models
from support.training_runs import LORA, adaptation_config, contrastive_config, log_of, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and training data; the model is wide enough for blocks of 64 weights."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    models.language_model(hidden_size=64, intermediate_size=128).save_pretrained(folder / "llama")
    return folder


@pytest.mark.parametrize("phase", [adapt, train])
def test_frozen_weights_take_4_bits_and_the_merged_model_is_whole(
    base: Path, tmp_path: Path, phase: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = set()

    def loaded(config: Any, *args: Any, **kwargs: Any) -> Any:
        tokenizer, model = load_tokenizer_and_model(config, *args, **kwargs)
        kinds.add(type(model.get_base_model().model.layers[0].mlp.up_proj.base_layer).__name__)
        return tokenizer, model

    monkeypatch.setattr(adaptation if phase is adapt else contrastive, "load_tokenizer_and_model", loaded)
    make_config = adaptation_config if phase is adapt else contrastive_config
    output = phase(make_config(base, tmp_path / "run", steps=8, learning_rate=1e-2, lora=LORA, quantization="nf4"))
    assert kinds == {"Linear4bit"}
    after, before = load_file(output / "model.safetensors"), load_file(base / "llama/model.safetensors")
    assert {name: t.dtype for name, t in after.items()} == {name: t.dtype for name, t in before.items()}
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed == {name for name in before if name.split(".")[-2] in LORA.target_modules}
    # Each merged weight is the original one plus a product of rank 2: quantisation is not in it.
    name = "model.layers.0.mlp.up_proj.weight"
    assert int(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3)) == 2
    assert min(log_of(output)[1:]) < log_of(output)[0]  # each step has other rows


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_parity_report(base: Path, tmp_path: Path, quantization: Any) -> None:
    config = contrastive_config(base, tmp_path / "run", lora=LORA, quantization=quantization, steps=4, learning_rate=1e-2)
    report = json.loads((train(config) / "merge_parity.json").read_text())
    assert 0 < report["ndcg@10_before"] <= 1 and 0 < report["ndcg@10_after"] <= 1
    assert 0 <= report["mean_difference"] <= report["largest_difference"]
    if quantization is None:
        assert report["largest_difference"] < 1e-4 * report["largest_weight"]
        assert report["ndcg@10_after"] == pytest.approx(report["ndcg@10_before"])
        return
    assert 1e-3 < report["largest_difference"] < report["largest_weight"]
    # Against vectors of the quantised model that are made again from the checkpoint of the run.
    tokenizer, model = load_tokenizer_and_model(config)
    quantised = Backbone(model, tokenizer, Contract(query_length=32, document_length=192)).eval()
    quantised.load_state_dict(load_file(tmp_path / "run/checkpoints/checkpoint-4/model.safetensors"), strict=False)
    rows = [json.loads(line) for line in (tmp_path / "run/rows.jsonl").read_text().splitlines()]
    queries = [row["query"] for row in rows]
    with torch.no_grad():
        sequences = quantised.tokenize(queries, "query")[0]
        before = np.stack([quantised(**quantised.collate([ids]))[0].numpy() for ids in sequences])
    difference = np.abs(before - CSPLADE(tmp_path / "run").encode_queries(queries).toarray())
    assert difference.max() <= report["largest_difference"] * 1.001


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    model(input_ids=ids).logits.square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_pass_the_quantised_layers_after_an_evaluation_as_before(base: Path, tmp_path: Path) -> None:
    """Against the same model with its 4-bit weights written out; some CPUs have kernels without gradients for evaluation."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    config = contrastive_config(base, tmp_path / "run", lora=LORA, quantization="nf4")
    tokenizer, model = load_tokenizer_and_model(config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([tokenizer(models.TEXTS[0])["input_ids"]])
    with torch.no_grad():
        model.eval()(input_ids=ids)
    found = gradients(model, ids)
    for layer in [module for module in model.modules() if isinstance(module, Linear4bit)]:
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        layer.forward = lambda x, weight=weight: torch.nn.functional.linear(x, weight)
    expected = gradients(model, ids)
    assert set(found) == set(expected) and len(found) > 10
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))


def test_quantization_needs_lora(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quantization freezes the weights in 4 bits: it needs lora"):
        contrastive_config(base, tmp_path / "run", quantization="nf4")
