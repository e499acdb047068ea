"""Documents that are trained for queries of a table: loss, gradients, saved model, resuming, dry run, refusals."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from transformers import AutoModelForCausalLM

from inside.training import LearnedTable, objective, padded_tokens, ranking_loss, trainer
from pyterrier_csplade import (
    CSPLADE,
    ConfigError,
    Contract,
    ContractError,
    ImpactIndex,
    Quantizer,
    QueryTable,
    export_sentence_transformers,
)
from pyterrier_csplade.training import ContrastiveConfig, QuerySettings, TargetNnz, ValidationSettings, dry_run, train
from support import models
from support.training_runs import LORA, contrastive_config, log_of, make_base
from support.validated_runs import validation

TABLE = QuerySettings(encoder="table")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and training data."""
    return make_base(tmp_path_factory.mktemp("base"))


def config(base: Path, output: Path, **settings: Any) -> ContrastiveConfig:
    """A short run with a table."""
    return contrastive_config(base, output, **{"query": TABLE, **settings})


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained with a table for eight steps."""
    return train(config(base, tmp_path_factory.mktemp("trained") / "run", steps=8, learning_rate=1e-2))


def softplus(values: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, values)


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_loss_and_gradients_match_a_numpy_reference(kl: float) -> None:
    """InfoNCE and KL against the vectors of a table, with gradients worked out by hand."""
    generator = np.random.default_rng(3)
    queries, passages, terms = 4, 6, 9
    weights = generator.random(terms) + 0.2
    expansion = csr_matrix(np.where(generator.random((terms, terms)) < 0.3, generator.random((terms, terms)) + 0.1, 0))
    own = [[0, 3, 8], [3], [1, 2, 3, 4], []]
    documents = generator.random((passages, terms)) * (generator.random((passages, terms)) < 0.6)
    targets, teacher = np.array([0, 1, 2, 3]), generator.random((queries, passages))
    table = LearnedTable(weights, expansion)
    rows = torch.tensor([row for row, tokens in enumerate(own) for _ in tokens])
    columns = torch.tensor([token for tokens in own for token in tokens])
    made = table(padded_tokens(rows, columns, queries))

    present = np.zeros((queries, terms))
    for row, tokens in enumerate(own):
        present[row, tokens] = 1
    expected = present @ (np.diag(weights) + expansion.toarray())
    assert made.detach().numpy() == pytest.approx(expected, rel=1e-5)

    given = torch.tensor(documents, dtype=torch.float32, requires_grad=True)
    scores = made @ given.T
    loss = ranking_loss(scores, torch.tensor(targets), torch.zeros(queries, passages, dtype=torch.bool), 1.0)
    wanted = torch.softmax(torch.tensor(teacher, dtype=torch.float32), dim=1)
    loss = loss + kl * torch.nn.functional.kl_div(torch.log_softmax(scores, dim=1), wanted, reduction="batchmean")
    loss.backward()  # type: ignore[no-untyped-call]

    s = expected @ documents.T
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    q = np.exp(teacher) / np.exp(teacher).sum(axis=1, keepdims=True)
    onehot = np.eye(passages)[targets]
    value = -np.log(p[range(queries), targets]).mean() + kl * (q * (np.log(q) - np.log(p))).sum() / queries
    assert float(loss) == pytest.approx(value, rel=1e-5)
    of_scores = (p - onehot + kl * (p - q)) / queries
    of_rows = present.T @ (of_scores @ documents)  # the gradient of each entry of the table's rows
    derivative = 1 - np.exp(-weights)  # of softplus, where it has this value
    assert table.own.grad is not None and table.added.grad is not None and given.grad is not None
    assert table.own.grad.numpy() == pytest.approx(np.diag(of_rows) * derivative, rel=1e-4, abs=1e-7)
    tokens, added = expansion.nonzero()
    assert table.added.grad.numpy() == pytest.approx(of_rows[tokens, added] * (1 - np.exp(-expansion.data)), rel=1e-4, abs=1e-7)
    assert given.grad.numpy() == pytest.approx(of_scores.T @ expected, rel=1e-4, abs=1e-7)


def test_the_objective_of_a_run_is_that_loss(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first loss of a run: queries of ones on their own tokens, and no regulariser on them."""
    seen: dict[str, Any] = {}
    compute = objective.ContrastiveObjective.__call__

    def watched(self: Any, queries: Any, passages: Any, labels: Any, weights: Any, **kwargs: Any) -> Any:
        loss, figures = compute(self, queries, passages, labels, weights, **kwargs)
        seen.setdefault("first", (queries.detach(), passages.detach(), labels, weights, float(loss), figures))
        return loss, figures

    monkeypatch.setattr(objective.ContrastiveObjective, "__call__", watched)
    train(config(base, tmp_path / "run", steps=1, lambda_query=5.0, flops_warmup_steps=1))
    queries, passages, labels, weights, loss, _ = seen["first"]
    assert weights[0] == 0
    assert all(min(abs(value), abs(value - 1)) < 1e-5 for value in queries.unique().tolist()) and queries.sum() > 0
    scores = (queries @ passages.T).masked_fill(labels.excluded, -torch.inf)
    penalty = weights[1] * float((passages.mean(dim=0) ** 2).sum())
    expected = torch.nn.functional.cross_entropy(scores, labels.targets)
    assert loss == pytest.approx(float(expected) + penalty, rel=1e-4)


def test_no_query_goes_through_the_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, list[int]] = {"model": [], "table": []}
    for name, query in (("model", QuerySettings()), ("table", TABLE)):
        load = AutoModelForCausalLM.from_pretrained

        def counted(*args: Any, _load: Any = load, _name: str = name, **kwargs: Any) -> Any:
            model, report = _load(*args, **kwargs)
            hook = lambda _, inputs, kwargs, __: calls[_name].append(len(kwargs["input_ids"]))  # noqa: E731
            model.base_model.register_forward_hook(hook, with_kwargs=True)
            return model, report

        with monkeypatch.context() as patch:
            patch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
            train(config(base, tmp_path / name, steps=1, query=query))
    # One part of queries fewer in the step, and in the batch of the pre-flight; the checks of the saved model are the same.
    assert len(calls["model"]) > len(calls["table"]) and sum(calls["model"]) >= sum(calls["table"]) + 4


def test_the_table_is_learned_and_is_the_query_encoder_of_the_model(base: Path, trained: Path) -> None:
    model = CSPLADE(trained)
    table = model.query_encoder()
    assert isinstance(table, QueryTable) and model._loaded is None  # type: ignore[unreachable]
    assert model.contract.query_side == "table" and table.contract.queries_for == model.contract.fingerprint
    assert not np.allclose(table.weights, 1.0, atol=1e-3) and table.expansion.nnz == 0
    queries = [text[:20] for text in models.TEXTS[:4]]
    assert abs(model.encode_queries(queries) - table.encode(queries)).max() == 0
    limited = model.encode_queries(queries, top_k=2)
    assert np.diff(limited.indptr).tolist() == [min(2, n) for n in np.diff(table.encode(queries).indptr)]
    encoded = model.query_encoder(top_k=2)(pd.DataFrame({"qid": ["1"], "query": queries[:1]}))["query_toks"][0]
    assert len(encoded) == limited[0].nnz and encoded.contract.fingerprint == model.contract.fingerprint
    scored = model.scorer()(pd.DataFrame([{"qid": "1", "query": queries[0], "docno": "d", "text": models.TEXTS[0]}]))
    expected = (table.encode(queries[:1]) @ model.encode_docs(models.TEXTS[:1]).T).toarray()[0, 0]
    assert scored["score"][0] == pytest.approx(expected, rel=1e-5)
    assert pickle.loads(pickle.dumps(model)).query_encoder() == table == copy.deepcopy(model).query_encoder()


def test_indexes_take_its_queries_and_refuse_those_of_others(trained: Path, base: Path, tmp_path: Path) -> None:
    model, other = CSPLADE(trained), CSPLADE(base / "llama")
    index = ImpactIndex(tmp_path / "index")
    documents = [{"docno": f"d{i}", "text": text} for i, text in enumerate(models.TEXTS[:3])]
    (model.doc_encoder() >> index).index(documents)
    topics = pd.DataFrame({"qid": ["1"], "query": [models.TEXTS[0][:20]]})
    retriever = index.retriever(algorithm="exhaustive")
    assert len((model.query_encoder() >> retriever)(topics))
    with pytest.raises(ContractError):
        (other.query_encoder() >> retriever)(topics)


def test_saving_copies_the_table_and_a_lost_or_foreign_one_is_refused(trained: Path, base: Path, tmp_path: Path) -> None:
    CSPLADE(trained).save(tmp_path / "copy")
    copied = CSPLADE(tmp_path / "copy")
    assert copied.query_encoder().contract == CSPLADE(trained).query_encoder().contract  # type: ignore[union-attr]
    for file in (tmp_path / "copy" / "query_table").iterdir():
        file.unlink()
    with pytest.raises(ContractError, match="its folder query_table is missing"):
        CSPLADE(tmp_path / "copy").query_encoder()
    plain = CSPLADE(base / "llama")
    QueryTable.from_weights(plain, np.ones(len(plain.vocabulary))).save(tmp_path / "copy" / "query_table")
    with pytest.raises(ContractError, match="its query table belongs to another model"):
        CSPLADE(tmp_path / "copy").encode_queries(["a"])


def test_the_exporter_asks_for_the_table(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"pass queries=csplade.query_encoder\(\)"):
        export_sentence_transformers(CSPLADE(trained), tmp_path / "st")


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_resuming_gives_the_same_table(base: Path, tmp_path: Path, accumulate: int) -> None:
    settings: dict[str, Any] = {"steps": 4, "save_steps": 2, "learning_rate": 1e-2, "gradient_accumulation_steps": accumulate}
    whole = train(config(base, tmp_path / "whole", **settings))
    broken = tmp_path / "broken"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(config(base, broken, **settings))
    train(config(base, broken, **settings), resume=True)
    first, second = (QueryTable.load(run / "query_table") for run in (whole, broken))
    assert np.array_equal(first.weights, second.weights)
    assert log_of(whole) == pytest.approx(log_of(broken), rel=1e-6)


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Interrupt a run in the step after some."""
    step = trainer.CurvesTrainer.training_step

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step >= steps:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    patch.setattr(trainer.CurvesTrainer, "training_step", interrupted)


@pytest.mark.slow
def test_gradient_accumulation_and_lora_give_the_table_of_the_whole_batch(base: Path, tmp_path: Path) -> None:
    tables = [
        QueryTable.load(
            train(config(base, tmp_path / f"run{n}", lora=LORA, gradient_accumulation_steps=n, steps=3)) / "query_table"
        )
        for n in (1, 2)
    ]
    assert tables[0].weights == pytest.approx(tables[1].weights, rel=1e-4)


def test_a_run_starts_from_a_table_and_trains_its_expansion(base: Path, tmp_path: Path) -> None:
    model = CSPLADE(base / "llama")
    size = len(model.vocabulary)
    expansion = csr_matrix((np.full(size, 0.5), (np.arange(size), (np.arange(size) + 1) % size)), shape=(size, size))
    QueryTable.from_weights(model, np.full(size, 2.0), expansion).save(tmp_path / "start")
    query = QuerySettings(encoder="table", start=str(tmp_path / "start"))
    output = train(config(base, tmp_path / "run", steps=3, learning_rate=1e-2, query=query))
    table = QueryTable.load(output / "query_table")
    assert table.expansion.nnz == size and not np.allclose(table.expansion.data, 0.5, atol=1e-3)
    assert (abs(table.weights - 2.0) < 1.5).all()
    QueryTable.from_weights(model, np.full(size, 2.0), expansion, counts=True).save(tmp_path / "counts")
    with pytest.raises(ConfigError, match="counts repeated tokens"):
        train(config(base, tmp_path / "no", query=QuerySettings(encoder="table", start=str(tmp_path / "counts"))))


def test_validation_searches_with_the_table(base: Path, tmp_path: Path) -> None:
    settings = {**validation(tmp_path), "patience": 0, "documents": 12}
    output = train(config(base, tmp_path / "run", steps=2, learning_rate=1e-2, validation=ValidationSettings(**settings)))
    model = CSPLADE(output)
    topics = pd.DataFrame({"qid": ["a", "b"], "query": ["inverted index", "dogs and cats"]})
    vectors = model.query_encoder()(topics)["query_toks"]
    assert log_of(output, "eval_nnz_query")[-1] == pytest.approx(np.mean([len(vector) for vector in vectors]))
    table = model.query_encoder()
    assert isinstance(table, QueryTable)
    impacts = model.encode_docs(models.TEXTS * 2, quantizer=Quantizer())
    scores = (table.encode(topics["query"].tolist()) @ impacts.T).toarray()
    # The judged documents come first in the slice, so that they win against the same text elsewhere.
    reciprocal = [1 / (1 + (row > row[place] * (1 + 1e-6)).sum()) for row, place in zip(scores, (0, 3))]
    assert log_of(output, "eval_RR@10")[-1] == pytest.approx(np.mean(reciprocal))


def test_a_dry_run_says_so_and_counts_no_tokens_of_queries(base: Path, tmp_path: Path) -> None:
    plain, table = (dry_run(config(base, tmp_path / "run", query=query)) for query in (QuerySettings(), TABLE))
    assert "query encoder" not in dict(plain.facts)
    assert dict(table.facts)["query encoder"] == "a table, no forward pass; it begins with all weights 1"
    missing = dry_run(config(base, tmp_path / "run", query=QuerySettings(encoder="table", start=str(tmp_path / "none"))))
    assert any("query: start" in problem for problem in missing.problems)


def test_settings_that_contradict_a_table_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start needs encoder: table"):
        QuerySettings(start="x")
    with pytest.raises(ConfigError, match="no regulariser changes the terms of a table"):
        config(base, tmp_path, target_nnz=TargetNnz(query=20))
    with pytest.raises(ContractError, match="query_side must be null or table"):
        Contract(query_side="other")


def test_the_side_of_the_queries_is_part_of_the_identity() -> None:
    plain, table = Contract(weights="w"), Contract(weights="w", query_side="table")
    assert plain.fingerprint != table.fingerprint and not plain.matches(table)
    assert Contract.from_dict(table.to_dict()) == table and "query_side" not in plain.to_dict()
