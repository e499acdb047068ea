"""The objective "pooled" of the adaptation phase: the lexical warm start, and sparsity on unlabelled passages."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from inside.training import (
    CurvesTrainer,
    LexicalLoss,
    OwnTokenFinder,
    PassageCollator,
    PassageDataset,
    TermStatistics,
    TrainingEncoder,
    cut_passages,
    draw_tokens,
    passage_contract,
    predictable,
)
from pyterrier_csplade import ConfigError, Contract, DataError
from pyterrier_csplade.model import Backbone
from pyterrier_csplade.training import (
    AdaptationConfig,
    LexicalSettings,
    LoraSettings,
    PassageSettings,
    PredictionSettings,
    adapt,
    dry_run,
    load_config,
    plot_curves,
)
from support import models
from support.reference_losses import prediction_loss
from support.training_runs import adaptation_config, log_of, make_base

SHORT: dict[str, Any] = {"shortest": 4, "longest": 12}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def pooled_config(base: Path, output: Path, **settings: Any) -> AdaptationConfig:
    return adaptation_config(base, output, **{"objective": "pooled", "passages": SHORT, **settings})


def encoder(variant: Any = "causal", prediction: PredictionSettings | None = None, **contract: Any) -> TrainingEncoder:
    return TrainingEncoder(models.language_model(), models.tokenizer(), Contract(variant=variant, **contract), prediction)


# ---------------------------------------------------------------------- passages and own tokens


def test_passages_are_consecutive_pieces_of_the_documents(tmp_path: Path) -> None:
    tokenizer = models.tokenizer()
    cut_passages(models.TEXTS, tokenizer, tmp_path, shortest=5, longest=9, seed=1)
    dataset = PassageDataset(tmp_path)
    left = [dataset[i] for i in range(len(dataset))]
    assert {len(ids) for ids in left} <= set(range(5, 10)) and len({len(ids) for ids in left}) > 2
    assert dataset.mean_length == pytest.approx(np.mean([len(ids) for ids in left]))
    assert [ids for block in dataset.blocks(7) for ids in block] == left
    for ids in tokenizer(models.TEXTS, add_special_tokens=False)["input_ids"]:
        joined: list[int] = []
        while left and ids[len(joined) : len(joined) + len(left[0])] == left[0]:
            joined += left.pop(0)
        assert len(ids) - len(joined) < 5
    assert not left


def test_a_corpus_of_short_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 6 documents of the corpus has 500 tokens: lower passages.shortest"):
        cut_passages(models.TEXTS, models.tokenizer(), tmp_path, shortest=500, longest=600, seed=1)


def test_own_tokens_leave_prefix_and_special_tokens_out() -> None:
    tokenizer = models.tokenizer()
    backbone = encoder(document_prefix="the: ", add_bos=True, add_eos=True)
    texts = ["dogs and dogs", "", "the position"]
    before = tokenizer("the:", add_special_tokens=False)["input_ids"]  # its space is joined with the text
    own = OwnTokenFinder(backbone)(backbone.tokenize(texts, "document")[0], "document")
    found = own.matrix(3, len(backbone.vocabulary)).toarray()
    for text, row in zip(texts, found):
        ids = tokenizer("the: " + text, add_special_tokens=False)["input_ids"]
        wanted = np.zeros(len(backbone.vocabulary))
        for token in ids[len(before) :] if text else []:
            wanted[int(np.flatnonzero(backbone.columns.numpy() == token)[0])] += 1
        np.testing.assert_array_equal(row, wanted)
    np.testing.assert_array_equal(own.lengths(3).numpy(), found.sum(axis=1))
    np.testing.assert_array_equal(own.per_text(3).numpy(), (found > 0).sum(axis=1))
    np.testing.assert_array_equal(own.mask(3, found.shape[1]).numpy(), found > 0)


# ---------------------------------------------------------------------- the loss


def naive_loss(
    logits: np.ndarray, counts: np.ndarray, frequencies: np.ndarray, passages: int, tokens: int, settings: LexicalSettings
) -> float:
    """The loss by its definition, text by text."""
    idf = np.log(1 + (passages - frequencies + 0.5) / (frequencies + 0.5))
    idf = np.minimum(idf / idf[frequencies > 0].max(), 1)
    total = 0.0
    for h, tf in zip(logits, counts):
        w, mine = np.log1p(np.maximum(h, 0)), tf > 0
        target = settings.scale * idf
        if settings.target == "bm25":
            length = tf.sum() / (tokens / passages)
            target = target * tf * (settings.k1 + 1) / (tf + settings.k1 * (1 - settings.b + settings.b * length))
        if mine.any():
            total += ((w - target)[mine] ** 2).mean()
            total += settings.revive_weight * np.maximum(settings.revive_below - h[mine], 0).mean()
        total += settings.others_weight * (w[~mine] ** 2).sum()
    return total / len(logits)


@pytest.mark.parametrize("target", ["idf", "bm25"])
def test_the_lexical_loss_and_its_gradient(target: Any) -> None:
    rng = np.random.default_rng(5)
    backbone = encoder()
    texts = [*models.TEXTS[:3], ""]
    own = OwnTokenFinder(backbone)(backbone.tokenize(texts, "document")[0], "document")
    terms = len(backbone.vocabulary)
    counts = own.matrix(4, terms).toarray()
    frequencies = rng.integers(0, 50, terms)
    settings = LexicalSettings(target=target, revive_below=0.5, others_weight=0.01, k1=0.9, b=0.4)
    logits = torch.tensor(rng.normal(size=(4, terms)), dtype=torch.float64, requires_grad=True)
    loss = LexicalLoss(TermStatistics(frequencies, 60, 900), settings)
    value, figures = loss(logits, own, 4)
    wanted = naive_loss(logits.detach().numpy(), counts, frequencies, 60, 900, settings)
    assert float(value) == pytest.approx(wanted, rel=1e-6)
    assert float(figures["lexical"]) == pytest.approx(wanted, rel=1e-6)
    (gradient,) = torch.autograd.grad(value, logits)
    entries = [(0, int(own.columns[0])), (1, 7), (2, int(own.columns[own.rows == 2][3])), (3, 11)]
    for row, column in entries:
        moved = [logits.detach().numpy().copy() for _ in range(2)]
        moved[0][row, column] += 1e-5
        moved[1][row, column] -= 1e-5
        above, below = (naive_loss(m, counts, frequencies, 60, 900, settings) for m in moved)
        assert float(gradient[row, column]) == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-8)
    halves, _ = loss(logits, own, 8)  # a process that has half of the texts
    assert float(halves) == pytest.approx(wanted / 2, rel=1e-6)


def test_dead_own_tokens_get_a_gradient() -> None:
    backbone = encoder()
    own = OwnTokenFinder(backbone)(backbone.tokenize(["dogs and cats"], "document")[0], "document")
    logits = torch.full((1, len(backbone.vocabulary)), -3.0, requires_grad=True)
    value, figures = LexicalLoss(TermStatistics(np.ones(len(backbone.vocabulary)), 5, 50), LexicalSettings())(logits, own, 1)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[0, own.columns] < 0).all() and torch.count_nonzero(gradient) == len(own.columns)
    assert float(figures["own_live"]) == 0.0


# ---------------------------------------------------------------------- the encoder


@pytest.mark.parametrize("variant", ["causal", "echo", "bidirectional"])
def test_raw_logits_are_those_before_the_activation(variant: Any) -> None:
    training, plain = encoder(variant).eval(), Backbone(models.language_model(), models.tokenizer(), Contract(variant=variant))
    batch = plain.collate([*plain.tokenize(models.TEXTS, "document")[0], []])
    with torch.no_grad():
        raw = training(**batch, raw=True)
        assert torch.equal(torch.log1p(torch.relu(raw)), plain.eval()(**batch))
        torch.testing.assert_close(raw[:-1], plain.reference_logits(**batch)[:-1], rtol=1e-5, atol=1e-5)
    assert (raw[-1] == -1).all()


@pytest.mark.parametrize("variant", ["causal", "echo"])
def test_the_adaptation_loss_of_the_same_hidden_states(variant: Any) -> None:
    model = encoder(variant, PredictionSettings(relu_weight=0.5))
    sequences = model.tokenize(models.TEXTS[:4], "document")[0]
    batch = model.collate(sequences)
    _, loss, figures = model(**batch, share=0.25)
    clm = relu = 0.0
    for ids in sequences:
        logits = models.language_model()(torch.tensor([ids])).logits
        _, first, second = prediction_loss(logits[:, :-1], torch.tensor([ids[1:]]), 1.0)
        clm, relu = clm + float(first) * (len(ids) - 1), relu + float(second) * (len(ids) - 1)
    count = sum(len(ids) - 1 for ids in sequences)
    assert float(figures["clm"]) == pytest.approx(clm / count, rel=1e-4)
    assert float(loss) == pytest.approx(0.25 * (clm + 0.5 * relu) / count, rel=1e-4)
    with torch.no_grad():
        assert isinstance(model(**batch, share=0.25), torch.Tensor)


def test_bidirectional_models_do_not_see_what_they_predict() -> None:
    model = encoder("bidirectional", PredictionSettings(relu_weight=0.0, mask_rate=1.0))
    mask = models.tokenizer().convert_tokens_to_ids("_")
    ids = model.tokenize(models.TEXTS[:1], "document")[0][0]
    _, loss, _ = model(**model.collate([ids]), share=1.0)
    plain = models.language_model()
    plain.config.is_causal = False
    logits = plain(torch.tensor([[ids[0], *[mask] * (len(ids) - 1)]]), attention_mask=torch.ones(1, len(ids))).logits
    assert float(loss) == pytest.approx(float(prediction_loss(logits[:, :-1], torch.tensor([ids[1:]]), 0.0)[0]), rel=1e-4)


def test_drawn_tokens() -> None:
    eligible = predictable(torch.ones(40, 50), copies=1)
    assert not eligible[:, 0].any() and eligible[:, 1:].all()
    assert predictable(torch.ones(1, 8), copies=2).tolist() == [[False, True, True, True, *[False] * 4]]
    masked, predicted = draw_tokens(eligible, 0.2, 0.3)
    assert not masked[:, 0].any() and (predicted | ~masked).all()
    assert float(masked.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert float(predicted.float().mean()) == pytest.approx(0.5, abs=0.04)
    masked, _ = draw_tokens(predictable(torch.tensor([[1, 1, 0]]), copies=1), 1e-9, 0.0)
    assert masked.tolist() == [[False, True, False]]


# ---------------------------------------------------------------------- runs


def test_the_first_loss_against_the_models_own_logits(base: Path, tmp_path: Path) -> None:
    settings = {"variant": "bidirectional", "document_prefix": "the: ", **SHORT}
    output = adapt(pooled_config(base, tmp_path / "run", passages=settings, steps=1, batch_size=100))
    dataset, tokenizer = PassageDataset(output), models.tokenizer()
    passages = [dataset[i] for i in range(len(dataset))]
    model = models.language_model()
    backbone = Backbone(model, tokenizer, Contract(variant="bidirectional"))
    columns = {int(token): column for column, token in enumerate(backbone.columns)}
    counts = np.zeros((len(passages), len(columns)))
    for row, ids in zip(counts, passages):
        for token in ids:
            row[columns[token]] += 1
    before = tokenizer("the:", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = backbone.eval().reference_logits(**backbone.collate([before + ids for ids in passages])).numpy()
    frequencies = (counts > 0).sum(axis=0)
    losses = [
        naive_loss(logits[i : i + 1], counts[i : i + 1], frequencies, len(passages), int(counts.sum()), LexicalSettings())
        for i in range(len(passages))
    ]
    # The batch holds 100 of the passages, most of which occur ten times.
    assert log_of(output, "lexical")[0] == pytest.approx(np.mean(losses), rel=0.05)


@pytest.mark.parametrize("variant", [*(pytest.param(v, marks=pytest.mark.slow) for v in ("causal", "echo")), "bidirectional"])
def test_own_tokens_come_to_the_top(base: Path, tmp_path: Path, variant: Any) -> None:
    settings: dict[str, Any] = {"steps": 60, "learning_rate": 1e-2, "batch_size": 8, "logging_steps": 20}
    output = adapt(
        pooled_config(
            base, tmp_path / "run", passages={"variant": variant, **SHORT}, lexical={"others_weight": 0.05}, **settings
        )
    )
    grounding = log_of(output, "grounding_document")
    assert grounding[-1] > grounding[0] + 0.2
    assert log_of(output, "nnz_document")[-1] < 0.7 * log_of(output, "nnz_document")[0]
    assert plot_curves(output).is_file()
    assert AutoModelForCausalLM.from_pretrained(output).config.is_causal is (variant != "bidirectional")


def test_sparsity_without_the_lexical_loss(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lexical": None, "prediction_weight": 1.0, "target_nnz": 40, "steps": 40, "logging_steps": 20}
    output = adapt(pooled_config(base, tmp_path / "run", learning_rate=1e-2, flops_warmup_steps=20, batch_size=4, **settings))
    assert log_of(output, "nnz_document")[-1] < 100 < log_of(output, "nnz_document")[0]
    assert log_of(output, "clm")[-1] < log_of(output, "clm")[0]
    assert not log_of(output, "lexical")


@pytest.mark.parametrize("pieces", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_the_same(base: Path, tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "steps": 6, "prediction_weight": 0.3, "target_nnz": 100, "gradient_accumulation_steps": pieces, "logging_steps": 2,
        "passages": {"variant": "bidirectional", **SHORT}, "lora": LoraSettings(rank=2, dropout=0.1),
    }  # fmt: skip
    whole = adapt(pooled_config(base, tmp_path / "whole", **settings))
    config = pooled_config(base, tmp_path / "stopped", **settings)
    stop_after(monkeypatch, 3)
    with pytest.raises(Exception, match="stopped by signal"):
        adapt(config)
    monkeypatch.undo()
    stopped = adapt(config, resume=True)
    first, second = (load_file(output / "model.safetensors") for output in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("lexical", "clm", "lambda_document", "grounding_document", "loss"):
        assert log_of(whole, name) == log_of(stopped, name)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send the process a signal in a step."""
    original = CurvesTrainer.end_step

    def end_step(self: Any) -> None:
        if self.state.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        original(self)

    monkeypatch.setattr(CurvesTrainer, "end_step", end_step)


def test_gradient_accumulation_changes_nothing(base: Path, tmp_path: Path) -> None:
    runs = [
        adapt(pooled_config(base, tmp_path / str(pieces), batch_size=8, gradient_accumulation_steps=pieces, target_nnz=50))
        for pieces in (1, 4)
    ]
    first, second = (load_file(output / "model.safetensors") for output in runs)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_of(runs[0], "lexical"), log_of(runs[1], "lexical"), rtol=1e-4)


def test_a_changed_corpus_is_refused(base: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text((base / "corpus.jsonl").read_text())
    config = adaptation_config(base, tmp_path / "run", objective="pooled", passages=SHORT, save_steps=1)
    config = AdaptationConfig(**{**vars(config), "corpus": str(corpus)})
    adapt(config)
    corpus.write_text(corpus.read_text() + json.dumps({"text": "one text more, " * 20}) + "\n")
    with pytest.raises(DataError, match="the training data has changed since the run began"):
        adapt(config, resume=True)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lexical": None}, "no loss uses the pooled vectors: set lexical, target_nnz or lambda_document"),
        ({"passages": {"shortest": 9, "longest": 8}}, "passages: shortest 9 is larger than longest 8"),
        ({"passages": {"variant": "sideways"}}, "passages: variant: expected one of 'causal', 'echo', 'bidirectional'"),
        ({"lexical": {"target": "tfidf"}}, "lexical: target: expected one of 'idf', 'bm25'"),
        ({"lexical": {"b": 1.5}}, "lexical: b must be from 0 to 1"),
        ({"lexical": {"weight": 0}}, "lexical: weight must be positive"),
        ({"target_nnz": 0.5}, "target_nnz must be at least 1"),
    ],
)
def test_settings_that_make_no_sense(base: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pooled_config(base, tmp_path / "run", **settings)


def test_the_mask_token_is_needed_only_where_tokens_are_masked(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"mask_token": "nothing such", "steps": 1, "prediction_weight": 1.0}
    adapt(pooled_config(base, tmp_path / "causal", **settings))
    with pytest.raises(ConfigError, match="'nothing such' is not a token"):
        adapt(pooled_config(base, tmp_path / "run", passages={"variant": "bidirectional"}, **settings))


def test_the_dry_run_reads_the_corpus(base: Path, tmp_path: Path) -> None:
    plan = dry_run(pooled_config(base, tmp_path / "run", prediction_weight=1.0, batch_size=4, steps=10))
    assert not plan.problems and plan.tokens == pytest.approx(10 * 4 * 8)
    assert any(name == "passes" for name, _ in plan.facts)
    longer = dry_run(pooled_config(base, tmp_path / "run", passages={"shortest": 300, "longest": 400}))
    assert any("no document has 300 tokens: lower passages.shortest" in problem for problem in longer.problems)


def test_a_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "warm.yaml"
    file.write_text(
        "model: a\noutput: b\ncorpus: c\nlearning_rate: 3e-4\nsteps: 190\nobjective: pooled\n"
        "passages: {variant: bidirectional, document_prefix: '. '}\nlexical: {target: bm25}\n"
    )
    config = load_config(file, AdaptationConfig)
    assert config.passages == PassageSettings(variant="bidirectional", document_prefix=". ")
    assert config.lexical == LexicalSettings(target="bm25") and config.lexical.scale == 2.0


def test_passages_have_room_for_prefix_and_ends() -> None:
    tokenizer = models.tokenizer()
    contract = passage_contract(PassageSettings(document_prefix="the: ", add_bos=True, add_eos=True, longest=20), tokenizer)
    taken = len(tokenizer("the:", add_special_tokens=False)["input_ids"])
    assert contract.document_length == 20 + taken + 2
    model = TrainingEncoder(models.language_model(), tokenizer, contract)
    batch = PassageCollator(model, 2)([[5, 6, 7], [8, 9, 10, 11]])
    assert [part["input_ids"].shape[1] for part in batch["passages"]] == [6 + taken, 5 + taken]
    assert batch["own"]["rows"].tolist() == [0] * 4 + [1] * 3
    assert math.isclose(float(batch["own"]["counts"].sum()), 7)
