"""Both training phases, run for a few steps with tiny random models."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from inside.training import Collator, add_lora, load_tokenizer_and_model, objective, ranking_loss, trainer
from pyterrier_csplade import CSPLADE, Contract, DataError
from pyterrier_csplade.model import Backbone
from pyterrier_csplade.training import LoraSettings, adapt, plot_curves, train
from support import models
from support.training_runs import LORA, adaptation_config, contrastive_config, log_of, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and training data."""
    return make_base(tmp_path_factory.mktemp("base"))


def same_vectors(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    assert abs(first - second).max() <= tolerance * abs(first).max()


# ---------------------------------------------------------------------- adaptation


def test_adaptation_runs_the_model_once_a_step(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(*args: Any, **kwargs: Any) -> Any:
        model, report = load(*args, **kwargs)
        model.base_model.register_forward_hook(lambda *_: calls.append(1))
        return model, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    output = adapt(adaptation_config(base, tmp_path / "run", steps=20, learning_rate=1e-2))
    assert len(calls) == 20
    assert log_of(output) == pytest.approx([c + r for c, r in zip(log_of(output, "clm"), log_of(output, "relu"))], abs=1e-4)
    assert np.mean(log_of(output, "clm")[-5:]) < np.mean(log_of(output, "clm")[:5]) - 1
    assert 0 < log_of(output, "positive_logits")[0] < 1
    assert not (output / "csplade_config.json").exists()
    adapted, before = load(output), load(base / "llama")
    assert any(not torch.equal(a, b) for a, b in zip(adapted.parameters(), before.parameters()))
    assert CSPLADE((adapted, models.tokenizer())).contract.variant == "causal"


@pytest.mark.parametrize("model", ["llama-tied", pytest.param("llama", marks=pytest.mark.slow)])
def test_adaptation_with_lora_is_merged(base: Path, tmp_path: Path, model: str) -> None:
    output = adapt(adaptation_config(base, tmp_path / "run", model, lora=LORA, bf16=True))
    after, before = load_file(output / "model.safetensors"), load_file(base / model / "model.safetensors")
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(after[name], before[name].to(after[name].dtype))}
    assert changed == {name for name in before if name.split(".")[-2] in LORA.target_modules}
    assert not (output / "adapter_config.json").exists()


@pytest.mark.parametrize("model", ["llama", "llama-tied"])
@pytest.mark.parametrize("phase", ["adapt", "train"])
def test_frozen_embeddings_keep_their_weights(base: Path, tmp_path: Path, model: str, phase: str) -> None:
    settings: dict[str, Any] = {"freeze_embeddings": True, "steps": 3, "learning_rate": 1e-2}
    if phase == "adapt":
        output = adapt(adaptation_config(base, tmp_path / "run", model, **settings))
    else:
        output = train(contrastive_config(base, tmp_path / "run", model, **settings))
    after, before = load_file(output / "model.safetensors"), load_file(base / model / "model.safetensors")
    same = {name for name in before if torch.equal(after[name], before[name])}
    assert same == {name for name in before if "embed_tokens" in name or "lm_head" in name}


# ---------------------------------------------------------------------- contrastive


@pytest.mark.parametrize(
    ("variant", "lora"),
    [
        ("causal", None),
        ("echo", LORA),
        ("bidirectional", LORA),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("causal", LORA), ("echo", None), ("bidirectional", None))),
    ],
)
def test_train_makes_a_checkpoint(base: Path, tmp_path: Path, variant: str, lora: LoraSettings | None) -> None:
    settings: dict[str, Any] = {"add_eos": True, "query_prefix": "q: ", "document_prefix": "d: "}
    settings |= {"encoding_document_length": 50, "variant": variant, "logit_scale": 0.5, "temperature": 2.0}
    output = train(contrastive_config(base, tmp_path / "run", lora=lora, **settings))
    csplade = CSPLADE(output)
    expected = {
        "variant": variant, "add_eos": True, "query_prefix": "q: ", "document_prefix": "d: ", "query_length": 32,
        "document_length": 50, "logit_scale": 0.5, "temperature": 2.0, "base_model": "llama",
    }  # fmt: skip
    assert {name: getattr(csplade.contract, name) for name in expected} == expected
    assert csplade.contract.training["learning_rate"] == 1e-3
    assert csplade.contract.training["rows"] == 24
    assert csplade.encode_docs(models.TEXTS).nnz
    assert len(log_of(output)) == 2
    for path in output.glob("*.json"):
        if path.name != "training_config.json":
            assert str(tmp_path.parent) not in path.read_text(), path.name
            assert "local" not in path.read_text(), path.name  # whether this machine was offline


def test_first_step_equals_numpy(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and figures of the first step, computed again with numpy from the naive graph."""
    batches: list[Any] = []
    collate = Collator.__call__

    def recorded(self: Collator, rows: Any) -> Any:
        batches.append(rows)
        return collate(self, rows)

    monkeypatch.setattr(Collator, "__call__", recorded)
    settings = {"lambda_query": 0.25, "lambda_document": 0.5, "flops_warmup_steps": 0, "temperature": 3.0, "logit_scale": 0.2}
    output = train(contrastive_config(base, tmp_path / "run", batch_size=5, steps=1, **settings))
    contract = Contract(query_length=32, document_length=192, logit_scale=0.2)
    backbone = Backbone(models.language_model(), models.tokenizer(), contract)

    def encode(text: str, role: Any) -> Any:
        with torch.no_grad():
            ids = backbone.tokenize([text], role)[0]
            return np.log1p(np.maximum(backbone.reference_logits(**backbone.collate(ids)).numpy()[0].astype(float), 0))

    rows = batches[1]  # the first is the batch of the pre-flight
    queries = np.array([encode(row["query"], "query") for row in rows])
    texts = [row["positive"] for row in rows] + [text for row in rows for text in row["negatives"]]
    passages = np.array([encode(text, "document") for text in texts])
    losses, right = [], []
    for own, row in enumerate(rows):
        scores = passages @ queries[own] / 3.0
        kept = [i for i, text in enumerate(texts) if i == own or text not in row["positives"]]
        losses.append(np.log(np.exp(scores[kept]).sum()) - scores[own])
        right.append(scores[own] >= scores[kept].max())
    flops = [sum(matrix.mean(axis=0) ** 2) for matrix in (queries, passages)]
    assert log_of(output, "rank_loss")[0] == pytest.approx(np.mean(losses), rel=1e-4)
    assert log_of(output, "flops_query")[0] == pytest.approx(flops[0], rel=1e-4)
    assert log_of(output, "flops_document")[0] == pytest.approx(flops[1], rel=1e-4)
    assert log_of(output)[0] == pytest.approx(np.mean(losses) + 0.25 * flops[0] + 0.5 * flops[1], rel=1e-4)
    assert log_of(output, "accuracy")[0] == pytest.approx(np.mean(right))
    assert log_of(output, "nnz_query")[0] == pytest.approx((queries > 0).sum(axis=1).mean())
    assert log_of(output, "nnz_document")[0] == pytest.approx((passages > 0).sum(axis=1).mean())
    assert log_of(output, "empty_document") == [0.0]


@pytest.mark.parametrize("accumulation", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_flops_ramp_counts_optimizer_steps(base: Path, tmp_path: Path, accumulation: int) -> None:
    settings = {"lambda_query": 0.16, "lambda_document": 1.6, "flops_warmup_steps": 4, "steps": 6}
    output = train(contrastive_config(base, tmp_path / "run", gradient_accumulation_steps=accumulation, **settings))
    shares = [0, 1 / 16, 4 / 16, 9 / 16, 1, 1]
    assert log_of(output, "lambda_query") == pytest.approx([0.16 * share for share in shares])
    assert log_of(output, "lambda_document") == pytest.approx([1.6 * share for share in shares])


def test_merged_equals_unmerged(base: Path, tmp_path: Path) -> None:
    settings = {"steps": 6, "save_steps": 6, "learning_rate": 1e-2}
    config = contrastive_config(base, tmp_path / "run", lora=LORA, variant="bidirectional", **settings)
    output = train(config)
    tokenizer, model = load_tokenizer_and_model(config)
    unmerged = Backbone(model, tokenizer, Contract(variant="bidirectional", query_length=32, document_length=192)).eval()
    trained = load_file(output / "checkpoints/checkpoint-6/model.safetensors")
    assert trained and all("lora_" in name for name in trained)
    untrained_vectors = CSPLADE((models.language_model(), tokenizer), variant="bidirectional").encode_docs(models.TEXTS)
    assert not unmerged.load_state_dict(trained, strict=False).unexpected_keys
    merged = CSPLADE(output).encode_docs(models.TEXTS)
    with torch.no_grad():
        sequences = unmerged.tokenize(models.TEXTS, "document")[0]
        same_vectors(merged.toarray(), np.stack([unmerged(**unmerged.collate([ids]))[0].numpy() for ids in sequences]))
    assert abs(merged - untrained_vectors).max() > 0.01


def test_lora_freezes_the_head_and_follows_the_seed(base: Path, tmp_path: Path) -> None:
    config = contrastive_config(base, tmp_path / "run", lora=LORA)
    first, second = (load_tokenizer_and_model(config)[1] for _ in range(2))
    trained = {name: p for name, p in first.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert all(torch.equal(p, dict(second.named_parameters())[name]) for name, p in trained.items())
    assert add_lora(models.language_model(), LoraSettings(rank=8)).peft_config["default"].lora_alpha == 16


@pytest.mark.parametrize("lora", [LORA, pytest.param(None, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_gradient_checkpointing_changes_nothing(base: Path, tmp_path: Path, lora: LoraSettings | None) -> None:
    settings = {"lora": lora, "steps": 4, "learning_rate": 1e-2}
    runs = [train(contrastive_config(base, tmp_path / str(on), gradient_checkpointing=on, **settings)) for on in (False, True)]
    assert log_of(runs[0]) == pytest.approx(log_of(runs[1]), rel=1e-5)
    assert log_of(runs[0], "grad_norm") == pytest.approx(log_of(runs[1], "grad_norm"), rel=1e-4)


def test_bf16_ranks_in_float32(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def recorded(scores: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.add(scores.dtype)
        return ranking_loss(scores, *rest)

    monkeypatch.setattr(objective, "ranking_loss", recorded)
    half = train(contrastive_config(base, tmp_path / "half", bf16=True))
    assert seen == {torch.float32}
    assert load_file(half / "model.safetensors")["model.norm.weight"].dtype == torch.float32
    whole = train(contrastive_config(base, tmp_path / "whole"))
    assert log_of(half)[0] == pytest.approx(log_of(whole)[0], rel=0.05)


@pytest.mark.parametrize("phase", [train, pytest.param(adapt, marks=pytest.mark.slow)])
def test_inputs_of_adapters_in_bf16_need_no_detour(
    base: Path, tmp_path: Path, phase: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit what PEFT makes of them by itself, by way of float32; recomputed layers are treated alike."""
    make_config = adaptation_config if phase is adapt else contrastive_config
    settings: dict[str, Any] = {"lora": LORA, "bf16": True, "gradient_checkpointing": True, "steps": 3}
    casts = []
    cast = BaseTunerLayer._cast_input_dtype

    def counted(self: Any, x: Any, dtype: torch.dtype) -> Any:
        found = cast(self, x, dtype)
        casts.append(found is not x)
        return found

    monkeypatch.setattr(BaseTunerLayer, "_cast_input_dtype", counted)
    direct = phase(make_config(base, tmp_path / "direct", **settings))
    of_steps = len(casts) - sum(casts)
    monkeypatch.setattr(trainer, "disable_input_dtype_casting", lambda *a, **k: nullcontext())
    detour = phase(make_config(base, tmp_path / "detour", **settings))
    assert of_steps >= 3 * 2 * 14, "steps, passes, adapted layers"
    for name in ("loss", "grad_norm"):
        assert log_of(direct, name) == log_of(detour, name)


# ---------------------------------------------------------------------- curves


def test_curves_are_drawn(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for output in (train(contrastive_config(base, tmp_path / "train")), adapt(adaptation_config(base, tmp_path / "adapt"))):
        picture = plot_curves(output)
        assert picture == output / "training_curves.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="there is no training_log.json"):
        plot_curves(tmp_path)
