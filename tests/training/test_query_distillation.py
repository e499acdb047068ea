"""Query encoders of fewer layers: taking layers, what accepts their queries, the loss, and the command that trains them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from inside.training import vector_loss
from pyterrier_csplade import CSPLADE, ContractError, DataError, ImpactIndex, Quantizer, QueryTable, TrainingError, cli
from pyterrier_csplade.training import DistilQueryConfig, ValidationSettings, distil_query
from support import models
from support.texts import dense
from support.training_runs import make_collection
from support.validated_runs import validation

LAYERS = [1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a model of two layers."""
    path = tmp_path_factory.mktemp("whole") / "model"
    CSPLADE((models.language_model(), models.tokenizer())).save(path)
    return str(path)


@pytest.fixture
def settings(whole: str, tmp_path: Path) -> dict[str, Any]:
    """Settings of a short run."""
    queries = [text[start : start + 12] for text in models.TEXTS for start in range(0, 24, 4)]
    (tmp_path / "queries.tsv").write_text("".join(f"{number}\t{text}\n" for number, text in enumerate(queries)))
    files = {"queries": str(tmp_path / "queries.tsv"), "output": str(tmp_path / "fast")}
    return {"model": whole, "layers": LAYERS, "steps": 4, "batch_size": 4, "validate_steps": 2, **files}


def test_some_layers_give_the_vectors_of_the_model_without_the_others(whole: str) -> None:
    """The reference removes the layers of another copy of the model by hand."""
    model = CSPLADE(whole)
    fast, queries = model.shallow(LAYERS), ["inverted index", "dogs and cats", ""]
    of_numpy = model.shallow(np.int64(1)), model.shallow([0])  # type: ignore[arg-type]
    assert of_numpy[0].contract == of_numpy[1].contract and json.dumps(of_numpy[0].contract.to_dict())
    lm = CSPLADE(whole).backbone.model
    lm.model.layers = torch.nn.ModuleList([lm.model.layers[layer] for layer in LAYERS])
    for place, layer in enumerate(lm.model.layers):
        layer.self_attn.layer_idx = place
    lm.config.num_hidden_layers = len(LAYERS)
    reference = CSPLADE((lm, models.tokenizer()), contract=model.contract.replace(weights="", other_weights=""))
    assert dense(fast.encode_queries(queries)) == pytest.approx(dense(reference.encode_queries(queries)), abs=1e-5)
    shared = fast.backbone.model.get_input_embeddings().weight.data_ptr()
    assert shared == model.backbone.model.get_input_embeddings().weight.data_ptr()
    assert model.shallow(1).contract.training["layers"] == [0]


def test_indexes_of_the_model_take_its_queries_and_no_documents(whole: str, tmp_path: Path) -> None:
    model = CSPLADE(whole)
    fast = model.shallow(LAYERS)
    assert fast.contract.queries_for == model.contract.fingerprint
    fast.save(tmp_path / "fast")
    loaded = CSPLADE(tmp_path / "fast")
    assert dense(loaded.encode_queries(["dogs"])) == pytest.approx(dense(fast.encode_queries(["dogs"])), abs=1e-6)
    assert loaded.contract.matches(fast.contract)
    index = ImpactIndex(tmp_path / "index")
    (model.doc_encoder() >> index).index([{"docno": f"d{i}", "text": text} for i, text in enumerate(models.TEXTS)])
    topics = pd.DataFrame({"qid": ["1"], "query": ["dogs and cats"]})
    found = (loaded.query_encoder() >> index.retriever(algorithm="exhaustive"))(topics)
    assert len(found)
    two_steps = loaded.query_encoder() >> index.retriever(algorithm="exhaustive") >> model.query_encoder() >> index.scorer()
    assert len(two_steps(topics)) == len(found)
    with pytest.raises(ContractError, match="encodes queries only: encode documents with the whole model"):
        loaded.encode_docs(["dogs"])
    other = CSPLADE((models.language_model("llama-tied"), models.tokenizer()))
    with pytest.raises(ContractError, match="was encoded by .*, a model of fewer layers for|a model of fewer layers for"):
        (other.shallow(LAYERS).query_encoder() >> index.retriever(algorithm="exhaustive"))(topics)


@pytest.mark.parametrize(
    ("layers", "message"),
    [([0, 1], "all are kept"), (2, "all are kept"), ([2], "has 2 layers"), ([1, 0], "layers must be"), (0, "layers must be")],
)
def test_layers_that_cannot_be_taken_are_refused(whole: str, layers: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        CSPLADE(whole).shallow(layers)


def test_layers_of_a_query_encoder_are_refused(whole: str) -> None:
    with pytest.raises(ContractError, match="take layers from a model"):
        CSPLADE(whole).shallow(LAYERS).shallow(LAYERS)


def test_the_loss_is_the_squared_error_and_lost_terms_have_a_gradient() -> None:
    """Against values and derivatives written down by hand."""
    logits = torch.tensor([[1.0, -2.0, -3.0, 0.5]], requires_grad=True)
    target = torch.tensor([[0.5, 0.7, 0.0, 0.0]])
    loss = vector_loss(logits, target)
    weights = np.log1p(np.maximum([1.0, -2.0, -3.0, 0.5], 0))
    assert float(loss) == pytest.approx(((weights - [0.5, 0.7, 0.0, 0.0]) ** 2).sum(), rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    expected = [2 * (weights[0] - 0.5) / 2.0, 2 * (0 - 0.7), 0.0, 2 * weights[3] / 1.5]
    assert logits.grad[0].tolist() == pytest.approx(expected, rel=1e-5)


def cosines(first: Any, second: Any) -> float:
    a, b = dense(first), dense(second)
    return float(((a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)).mean())


def test_training_comes_closer_and_trains_only_the_layers(settings: dict[str, Any]) -> None:
    config = DistilQueryConfig(**{**settings, "steps": 60, "learning_rate": 1e-2, "lambda_query": 0.0, "validate_steps": 10})
    model = CSPLADE(settings["model"])
    queries, early = config.read(), CSPLADE(settings["model"]).shallow(LAYERS)
    trained = CSPLADE(distil_query(config, verbose=False))
    expected = model.encode_queries(queries)
    assert cosines(trained.encode_queries(queries), expected) > cosines(early.encode_queries(queries), expected) + 0.02
    before, after = (side.backbone.model.state_dict() for side in (early, trained))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("embed_tokens" in name or "lm_head" in name for name in changed)
    assert trained.contract.queries_for == model.contract.fingerprint
    training = trained.contract.training
    assert training["phase"] == "distil-query" and training["layers"] == LAYERS and 0 < training["cosine"] <= 1
    unchanged = CSPLADE(settings["model"])  # the teacher's own weights are not trained
    assert unchanged.contract.weights == model.contract.weights


def test_a_run_is_reproducible_and_keeps_the_best_of_its_validations(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inside.training import query_distillation

    config = DistilQueryConfig(**settings)
    first = CSPLADE(distil_query(config, verbose=False)).encode_queries(["dogs and cats"])
    second = CSPLADE(distil_query(config, verbose=False)).encode_queries(["dogs and cats"])
    assert dense(first) == pytest.approx(dense(second), abs=0)
    figures = iter([0.9, 0.2, 0.1])
    monkeypatch.setattr(query_distillation._Judge, "__call__", lambda *_: next(figures))
    kept = CSPLADE(distil_query(config, verbose=False))
    early = CSPLADE(settings["model"]).shallow(LAYERS)
    assert dense(kept.encode_queries(["dogs"])) == pytest.approx(dense(early.encode_queries(["dogs"])), abs=1e-6)
    assert kept.contract.training["cosine"] == 0.9


def test_validation_searches_the_documents_of_the_whole_model(settings: dict[str, Any], tmp_path: Path) -> None:
    from inside.training import query_distillation

    slice_settings = ValidationSettings(**{**validation(tmp_path), "documents": 6})
    documents = [{"docno": f"d{i}", "text": text} for i, text in enumerate(models.TEXTS)]
    (tmp_path / "collection" / "docs.jsonl.gz").unlink()
    make_collection(tmp_path / "other", docs=documents)
    (tmp_path / "other" / "docs.jsonl.gz").rename(tmp_path / "collection" / "docs.jsonl.gz")
    teacher = CSPLADE(settings["model"])
    fast = teacher.shallow(LAYERS)
    judge = query_distillation._Judge(teacher, slice_settings, verbose=False)
    impacts = teacher.encode_docs(models.TEXTS, quantizer=Quantizer())
    scores = dense(fast.encode_queries(["inverted index", "dogs and cats"]) @ impacts.T)
    reciprocal = [1 / (1 + (row > row[place]).sum()) for row, place in zip(scores, (0, 3))]
    assert judge.name == "RR@10" and judge(fast, [], impacts) == pytest.approx(np.mean(reciprocal))
    trained = CSPLADE(distil_query(DistilQueryConfig(**settings, validation=slice_settings), verbose=False))
    assert 0 <= trained.contract.training["RR@10"] <= 1


def test_a_loss_that_is_not_finite_stops_the_run(settings: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="lower learning_rate"):
        distil_query(DistilQueryConfig(**{**settings, "learning_rate": 1e30, "steps": 20}), verbose=False)
    assert not Path(settings["output"]).exists()


def test_one_query_is_too_few(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "queries.tsv").write_text("1\tdogs\n")
    with pytest.raises(DataError, match="needs at least 2 queries"):
        distil_query(DistilQueryConfig(**settings), verbose=False)


def test_the_command(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "shallow.json"
    config.write_text(json.dumps(settings))
    assert cli.main(["distil-query", str(config), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("35 queries of ") and not Path(settings["output"]).exists()
    assert cli.main(["distil-query", str(config)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"query encoder: {settings['output']}"
    assert CSPLADE(settings["output"]).contract.training["phase"] == "distil-query"
    assert cli.main(["distil-query", str(config)]) == 0  # an earlier result is replaced
    table = QueryTable.from_weights(CSPLADE(settings["model"]), np.ones(len(CSPLADE(settings["model"]).vocabulary)))
    table.save(tmp_path / "table")
    config.write_text(json.dumps({**settings, "output": str(tmp_path / "table")}))
    assert cli.main(["distil-query", str(config)]) == 2
    assert "contains other files than a model" in capsys.readouterr().err
