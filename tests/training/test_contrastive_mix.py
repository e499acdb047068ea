"""What contrastive training can mix in: lexical and adaptation losses, expansion control, a temperature that follows."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inside.training import (
    Collator,
    ContrastiveObjective,
    CurvesTrainer,
    ExpansionControl,
    Labels,
    RowDataset,
    TemperatureSchedule,
    own_terms_only,
)
from pyterrier_csplade import CSPLADE, ConfigError, Contract
from pyterrier_csplade.model import Backbone
from pyterrier_csplade.training import ContrastiveConfig, ExpansionSettings, dry_run, plot_curves, train
from pyterrier_csplade.training.monitoring import fallen
from pyterrier_csplade.vectors import lexical_grounding
from support import models
from support.reference_losses import prediction_loss
from support.training_runs import contrastive_config, log_of, make_base

ALL: dict[str, Any] = {
    "lexical": {"target": "bm25"}, "adaptation_weight": 0.5, "expansion": {"until": 0.8}, "temperature": "auto",
    "final_temperature": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def first_batch(run: Path) -> tuple[Backbone, list[str], list[str]]:
    """Return an untrained encoder, and the queries and passages of a batch that holds all rows."""
    dataset = RowDataset(run / "rows.jsonl", negatives=2, seed=42)
    rows = [dataset[place] for place in range(len(dataset))]
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract(query_length=32, document_length=192)).eval()
    return backbone, [row["query"] for row in rows], [t for row in rows for t in (row["positive"], *row["negatives"])]


# ---------------------------------------------------------------------- losses in the mix


def test_figures_of_the_first_step(base: Path, tmp_path: Path) -> None:
    output = train(contrastive_config(base, tmp_path / "run", steps=1, batch_size=24, lexical={}, adaptation_weight=0.5))
    backbone, queries, passages = first_batch(output)
    ids = backbone.tokenize(passages, "document")[0]
    columns = {int(token): column for column, token in enumerate(backbone.columns)}
    counts = np.zeros((len(ids), len(columns)))
    for row, tokens in zip(counts, ids):
        np.add.at(row, [columns[token] for token in tokens], 1)
    with torch.no_grad():
        logits = backbone.reference_logits(**backbone.collate(ids)).numpy()
        predicted = [prediction_loss(backbone.model(torch.tensor([t])).logits[:, :-1], torch.tensor([t[1:]]), 0.0) for t in ids]
    weights, own = np.log1p(np.maximum(logits, 0)), counts > 0
    idf = np.log(1 + (len(ids) - own.sum(axis=0) + 0.5) / (own.sum(axis=0) + 0.5))
    errors = (weights - 2 * idf / idf[own.any(axis=0)].max()) ** 2
    others = np.where(own, 0, weights**2).sum(axis=1)
    of_own = (errors * own).sum(axis=1) / own.sum(axis=1)
    assert log_of(output, "lexical_error")[0] == pytest.approx(of_own.mean(), rel=1e-4)
    assert log_of(output, "lexical_others")[0] == pytest.approx(others.mean(), rel=1e-4)
    lengths = np.array([len(tokens) - 1 for tokens in ids])
    clm = np.average([float(loss[0]) for loss in predicted], weights=lengths)
    assert log_of(output, "clm")[0] == pytest.approx(clm, rel=0.05)  # the figure is the mean over parts
    found = lexical_grounding(backbone_vectors(backbone, queries), own_matrix(backbone, queries))
    assert log_of(output, "grounding_query")[0] == pytest.approx(found.top, abs=1e-6)
    assert log_of(output, "own_weight_query")[0] == pytest.approx(found.weight, abs=1e-5)


def backbone_vectors(backbone: Backbone, texts: list[str]) -> Any:
    encoder = CSPLADE((models.language_model(), models.tokenizer()), contract=backbone.contract)
    return encoder.encode_queries(texts)


def own_matrix(backbone: Backbone, texts: list[str]) -> Any:
    from scipy.sparse import csr_matrix

    own = np.zeros((len(texts), len(backbone.vocabulary)))
    for row, ids in zip(own, backbone.tokenize(texts, "query")[0]):
        row[[int(np.flatnonzero(backbone.columns.numpy() == token)[0]) for token in ids]] = 1
    return csr_matrix(own)


@pytest.mark.parametrize("variant", ["causal", pytest.param("echo", marks=pytest.mark.slow)])
def test_the_same_with_gradient_accumulation(base: Path, tmp_path: Path, variant: Any) -> None:
    settings: dict[str, Any] = {**ALL, "variant": variant, "batch_size": 8, "steps": 3}
    runs = [
        train(contrastive_config(base, tmp_path / str(pieces), gradient_accumulation_steps=pieces, **settings))
        for pieces in (1, 4)
    ]
    first, second = (load_file(run / "model.safetensors") for run in runs)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=2e-5)
    for name in ("loss", "lexical", "temperature", "restricted"):
        np.testing.assert_allclose(log_of(runs[0], name), log_of(runs[1], name), rtol=1e-3)


def test_a_resumed_run_ends_the_same(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        **ALL, "variant": "bidirectional", "steps": 6, "logging_steps": 2, "lora": {"rank": 2}, "target_nnz": {"document": 90},
    }  # fmt: skip
    whole = train(contrastive_config(base, tmp_path / "whole", **settings))
    original = CurvesTrainer.end_step

    def end_step(self: Any) -> None:
        if self.state.global_step == 3:
            signal.raise_signal(signal.SIGTERM)
        original(self)

    monkeypatch.setattr(CurvesTrainer, "end_step", end_step)
    config = contrastive_config(base, tmp_path / "stopped", **settings)
    with pytest.raises(Exception, match="stopped by signal"):
        train(config)
    monkeypatch.undo()
    stopped = train(config, resume=True)
    first, second = (load_file(run / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("loss", "temperature", "restricted", "lexical", "clm", "grounding_document", "grounding_query"):
        assert len(log_of(whole, name)) == 3 and log_of(whole, name) == log_of(stopped, name)
    assert CSPLADE(whole).contract.temperature == 2.0
    assert plot_curves(whole).is_file()


@pytest.mark.parametrize("model", ["llama", "llama-tied"])
def test_frozen_embeddings_stay(base: Path, tmp_path: Path, model: str) -> None:
    output = train(contrastive_config(base, tmp_path / "run", model, freeze_embeddings=True, adaptation_weight=0.1))
    before, after = (load_file(folder / "model.safetensors") for folder in (base / model, output))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("embed" in name or "lm_head" in name for name in changed)


# ---------------------------------------------------------------------- temperature


def test_the_temperature_follows_the_scores_and_ends_at_the_final_one() -> None:
    schedule = TemperatureSchedule("auto", 2.0, 30)  # annealed after 20 steps
    scores = torch.tensor([[0.0, 600.0], [0.0, 1200.0]])  # standard deviations 424.3 and 848.5
    spread = (600 + 1200) / 2 / math.sqrt(2)
    assert schedule(scores, 0) == pytest.approx(spread / 3)
    assert schedule(scores, 10) == pytest.approx(math.sqrt(spread / 3 * 2))
    assert schedule(scores / 10, 10) == pytest.approx(math.sqrt((0.9 * spread + 0.1 * spread / 10) / 3 * 2))
    other = TemperatureSchedule("auto", 2.0, 30)
    other.load_state_dict(schedule.state_dict())
    assert other(scores, 15) == schedule(scores, 15)
    assert schedule(scores, 20) == schedule(scores, 29) == pytest.approx(2.0)
    assert TemperatureSchedule("auto", 2.0, 30)(scores / 1000, 0) == pytest.approx(2.0)  # never below the final one
    assert TemperatureSchedule(7.0, 7.0, 30)(scores, 0) == 7.0


# ---------------------------------------------------------------------- expansion control


def test_restricted_vectors_keep_their_own_terms() -> None:
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    own = torch.tensor([[True, False, True], [True, False, False]])
    found = own_terms_only(weights, own, torch.tensor([True, False]))
    assert found.tolist() == [[1.0, 0.0, 3.0], [4.0, 5.0, 6.0]]
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None and weights.grad.tolist() == [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]


def test_restrictions_become_rare() -> None:
    control = ExpansionControl(ExpansionSettings(start=0.8, until=0.5), 200, 3)
    assert [control.probability(step) for step in (0, 50, 100, 199)] == pytest.approx([0.8, 0.4, 0.0, 0.0])
    assert ExpansionControl(ExpansionSettings(until=40), 200, 3).probability(10) == pytest.approx(0.75)
    for step in (0, 50, 100):
        drawn = control.draw(4000, step, "document")
        assert float(drawn.float().mean()) == pytest.approx(control.probability(step), abs=0.03)
        assert torch.equal(drawn, control.draw(4000, step, "document"))
    first = control.draw(100, 50, "document")
    for other in (control.draw(100, 51, "document"), control.draw(100, 50, "query"), control.draw(100, 50, "document", 1)):
        assert not torch.equal(first, other)


def test_regularisers_see_what_restricted_texts_would_expand_to(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    queries, passages = torch.rand(2, 5), torch.rand(3, 5)
    labels = Labels(
        targets=torch.tensor([0, 1]), owners=torch.tensor([0, 1, 1]), texts=torch.tensor([1, 2, 3]),
        relevant_queries=torch.tensor([0, 1]), relevant_texts=torch.tensor([1, 2]), teacher=torch.full((3,), float("nan")),
    )  # fmt: skip
    objective = ContrastiveObjective(contrastive_config(base, tmp_path))
    scored = queries * torch.tensor([1.0, 1, 0, 0, 0]), passages
    loss, figures = objective(queries, passages, labels, (0.3, 0.6), scored=scored)
    scores = (scored[0] @ passages.T).numpy()
    rank = np.mean([np.log(np.exp(row).sum()) - row[target] for row, target in zip(scores, (0, 1))])
    flops = [float((vectors.mean(dim=0) ** 2).sum()) for vectors in (queries, passages)]
    assert float(loss) == pytest.approx(rank + 0.3 * flops[0] + 0.6 * flops[1], rel=1e-5)
    assert figures["nnz_query"] == 5


# ---------------------------------------------------------------------- own tokens and warnings


def test_batches_bring_their_own_tokens() -> None:
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract(query_prefix="the: "))
    rows: list[dict[str, Any]] = [
        {
            "query": "dogs and cats",
            "positive": "dogs",
            "negatives": ["a longer passage"],
            "positives": ["dogs"],
            "scores": None,
        },
        {"query": "a mask", "positive": "An inverted index maps every term", "negatives": [], "positives": [], "scores": None},
    ]
    batch = Collator(backbone)(rows)
    for side, role, texts in (
        ("own_queries", "query", [row["query"] for row in rows]),
        ("own_passages", "document", ["a longer passage", "An inverted index maps every term", "dogs"]),
    ):
        space = " " if role == "query" else ""  # the prefix ends with a space, which is joined with the text's first word
        for row, text in enumerate(texts):
            wanted = set(models.tokenizer()(space + text, add_special_tokens=False)["input_ids"])
            found = batch[side]["columns"][batch[side]["rows"] == row]
            assert {int(backbone.columns[column]) for column in found} == wanted


def test_a_fall_of_the_grounding_is_found_once() -> None:
    history = [{"grounding_query": 0.5, "step": 1}, {"eval_nDCG@10": 0.3, "step": 1}, {"grounding_query": 0.1, "step": 2}]
    assert fallen(history) == ["grounding_query fell from 0.50 to 0.10"]
    assert fallen(history[:2]) == fallen(history[:1]) == fallen([]) == []
    assert fallen([*history, {"grounding_query": 0.05, "step": 3}]) == []


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "automatic"}, "temperature: expected float, found 'automatic'"),
        ({"temperature": 0}, "temperature must be positive, or auto"),
        ({"temperature": 2.0, "final_temperature": 3.0}, "final_temperature needs temperature: auto"),
        ({"expansion": {"start": 1.5}}, "expansion: start must be above 0 and at most 1"),
        ({"expansion": {"until": 0}}, "expansion: until must be positive"),
        ({"adaptation_weight": -1}, "adaptation_weight must not be negative"),
        (
            {"prediction": {"mask_rate": 0.9, "visible_rate": 0.2}},
            "prediction: the sum of mask_rate and visible_rate exceeds 1",
        ),
        ({"lexical": {"scale": 0}}, "lexical: scale must be positive"),
    ],
)
def test_settings_that_make_no_sense(base: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contrastive_config(base, tmp_path, **settings)


def test_the_mask_token_must_be_a_token(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"adaptation_weight": 0.1, "prediction": {"mask_token": "nothing such"}}
    with pytest.raises(ConfigError, match="'nothing such' is not a token"):
        train(contrastive_config(base, tmp_path / "run", variant="bidirectional", **settings))


def test_the_dry_run_counts_the_second_pass(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"adaptation_weight": 0.1, "steps": 5}
    plain, causal, masked = (
        dry_run(contrastive_config(base, tmp_path / "run", **chosen))
        for chosen in ({"steps": 5}, settings, {**settings, "variant": "bidirectional"})
    )
    assert plain.tokens == causal.tokens < masked.tokens < 2 * causal.tokens
    assert plain.flops < causal.flops < masked.flops


def test_numbers_are_still_numbers(base: Path, tmp_path: Path) -> None:
    config = contrastive_config(base, tmp_path, temperature="2e1")
    assert isinstance(config, ContrastiveConfig) and config.temperature == config.last_temperature == 20.0
