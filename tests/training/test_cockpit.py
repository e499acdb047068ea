"""Pre-flight, cockpit, automatic stop, validation and reports of contrastive runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_matrix

from inside.model import head
from inside.planning import Backbone, judge, reporters, winning_positions
from pyterrier_csplade import CSPLADE, ConfigError, Contract, DataError, TrainingError
from pyterrier_csplade.training import ValidationSettings, plot_curves, train
from pyterrier_csplade.training.monitoring import Cockpit, Validation, index_bytes, read_slice, top_position_share
from support import models
from support.training_runs import contrastive_config, log_of, make_base, make_collection


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


# ---------------------------------------------------------------------- winners


@pytest.mark.parametrize("variant", ["causal", "echo", "bidirectional"])
@pytest.mark.parametrize("block", [1, 2**23])
def test_winning_positions_against_the_models_own_logits(variant: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_LOGITS_IN_FLIGHT", {"cpu": block})
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract(variant=variant)).eval()
    batch = backbone.collate(backbone.tokenize(models.TEXTS, "document")[0])
    with torch.no_grad():
        logits = backbone.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits = logits.masked_fill(~batch["pool_mask"][..., None], float("-inf"))[:, :, backbone.columns]
        assert torch.equal(winning_positions(backbone, batch), logits.argmax(dim=1))
    shares = []
    for row in logits:
        values, winners = row.max(dim=0)
        counts = np.bincount(winners[values > 0].numpy())
        shares.append(counts.max() / counts.sum())
    assert top_position_share(backbone, batch) == pytest.approx(np.mean(shares))


# ---------------------------------------------------------------------- pre-flight


def figures(**changes: float) -> dict[str, float]:
    healthy = {
        "mean_logit": -3.0, "std_logit": 2.0, "head_norm": 0.3, "nnz_query": 40.0, "nnz_document": 200.0, "empty_query": 0.0,
        "empty_document": 0.0, "positive_score": 30.0, "score_spread": 3.0, "similarity": 0.4, "rank_loss": 2.0,
        "chance_loss": 4.0, "penalty_ratio": 0.5, "top_position_share": 0.2,
        "grounding_query": 0.7, "grounding_document": 0.6,
    }  # fmt: skip
    return {**healthy, **changes}


@pytest.mark.parametrize(
    ("changes", "verdict", "cure"),
    [
        ({}, "ok", ""),
        ({"empty_document": 0.9}, "collapse", "90% of the document vectors are empty.*adaptation phase"),
        ({"empty_query": 0.6}, "collapse", "60% of the query vectors are empty.*logit_scale"),
        ({"score_spread": 300.0}, "collapse", "Scores differ by 300 temperatures.*raise temperature to about 1e.02"),
        ({"similarity": 0.99}, "collapse", "Passages hardly differ .*0.990.*add_bos"),
        ({"nnz_document": 9000.0}, "risk", "9,000 of 10,000 terms are active.*adaptation.*target_nnz"),
        ({"top_position_share": 0.8}, "risk", "A single position has 80% of the maxima.*add_bos: false"),
        ({"grounding_document": 0.03}, "risk", "Only 3% of the heaviest terms of a document are tokens.*objective: pooled"),
        ({"penalty_ratio": 500.0}, "risk", "regularisers are 500 times the ranking loss.*flops_warmup_steps"),
    ],
)
def test_verdicts(base: Path, tmp_path: Path, changes: dict[str, float], verdict: str, cure: str) -> None:
    found = judge(figures(**changes), 10_000, contrastive_config(base, tmp_path))
    assert found.verdict == verdict
    assert len(found.findings) == (1 if changes else 0)
    assert re.search(cure, str(found))


def test_the_pre_flight_of_a_run_against_numpy(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"temperature": 50.0, "lambda_query": 0.1, "lambda_document": 0.2, "batch_size": 8}
    with pytest.warns(UserWarning, match="pre-flight: "):
        output = train(contrastive_config(base, tmp_path / "run", steps=1, **settings))
    found = json.loads((output / "preflight.json").read_text())["figures"]
    rows = [json.loads(line) for line in (output / "rows.jsonl").read_text().splitlines()][:16]
    csplade = CSPLADE((models.language_model(), models.tokenizer()), contract=Contract(query_length=32, document_length=192))
    queries = csplade.encode_queries([row["query"] for row in rows]).toarray()
    head = models.language_model().lm_head.weight.detach().numpy()
    assert found["nnz_query"] == pytest.approx((queries > 0).sum(axis=1).mean(), rel=1e-4)
    assert found["empty_query"] == 0
    assert found["head_norm"] == pytest.approx(np.linalg.norm(head, axis=1).mean(), rel=1e-4)
    assert found["penalty_ratio"] > 0 and found["chance_loss"] > np.log(16)


# ---------------------------------------------------------------------- figures and stops


def test_figures_of_the_cockpit(base: Path, tmp_path: Path) -> None:
    output = train(contrastive_config(base, tmp_path / "run", steps=4, logging_steps=2))
    assert len(log_of(output, "dead_terms")) == len(log_of(output, "top_position_share")) == 2
    assert all(0 <= share <= 1 for share in log_of(output, "dead_terms") + log_of(output, "top_position_share"))
    points = [json.loads(line) for line in (output / "top_terms.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == [2, 4]
    vocabulary = set(CSPLADE(output).vocabulary)
    for point in points:
        assert len(point["terms"]) == 10 and set(point["terms"]) <= vocabulary
        assert list(point["terms"].values()) == sorted(point["terms"].values(), reverse=True)


def model_with_head(folder: Path, fill: float) -> Path:
    model = models.language_model()
    torch.nn.init.constant_(model.lm_head.weight, fill)
    model.save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("resume", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_that_collapses_to_zero_is_saved_and_stopped(base: Path, tmp_path: Path, resume: bool) -> None:
    dead = model_with_head(tmp_path / "dead", 0.0)
    config = contrastive_config(base, tmp_path / "run", model=dead, steps=8)
    with pytest.raises(TrainingError, match="step 3: all query vectors have been empty at the last 3 points .*saved in"):
        train(config, resume=resume)
    assert (tmp_path / "run/checkpoints/checkpoint-3").is_dir()
    assert not (tmp_path / "run/csplade_config.json").exists()
    found = json.loads((tmp_path / "run/preflight.json").read_text())
    assert found["verdict"] == "collapse" and "100% of the query vectors are empty" in found["findings"][0]


def test_a_stop_can_be_switched_off(base: Path, tmp_path: Path) -> None:
    dead = model_with_head(tmp_path / "dead", 0.0)
    output = train(contrastive_config(base, tmp_path / "run", model=dead, steps=5, stop_on_collapse=False))
    assert log_of(output, "empty_query") == [1.0] * 5


def test_a_run_with_all_terms_active_and_blind_is_stopped(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logs(self: Any, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "nnz_document" in logs:
            original(self, args, state, control, {**logs, "nnz_document": 390.0, "accuracy": 0.1}, **kwargs)

    original = Cockpit.on_log
    monkeypatch.setattr(Cockpit, "on_log", logs)
    with pytest.raises(TrainingError, match="step 3: all terms have been active and rank no better than chance"):
        train(contrastive_config(base, tmp_path / "run", steps=8))


def test_counts_and_signs_resume_from_a_checkpoint(tmp_path: Path) -> None:
    backbone: Any = SimpleNamespace(vocabulary=["a", "b", "c", "d"])
    control: Any = SimpleNamespace(should_save=False, should_training_stop=False)
    before, after = (Cockpit(None, backbone, {}, contrastive_config(tmp_path, tmp_path)) for _ in range(2))

    def log(cockpit: Cockpit) -> None:
        logs = {"nnz_document": 1.0, "empty_query": 0.0, "empty_document": 1.0}
        cockpit.on_log(SimpleNamespace(output_dir="run"), SimpleNamespace(global_step=9, log_history=[logs]), control, logs)

    before.diagnose(torch.empty(0, 4), torch.tensor([[1.0, 0, 0, 2], [3, 0, 0, 0]]))
    log(before)
    log(before)
    save_file(before.state_dict(), tmp_path / "state.safetensors")
    after.load_state_dict(load_file(tmp_path / "state.safetensors"))
    after.diagnose(torch.empty(0, 4), torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0]]))
    assert after.passages == 4 and after.frequencies.tolist() == [3, 0, 1, 1]
    assert not control.should_training_stop
    log(after)
    assert "all document vectors have been empty at the last 3 points" in after.collapsed
    assert control.should_save and control.should_training_stop


# ---------------------------------------------------------------------- validation

DOCS = [{"docno": f"d{i}", "text": text} for i, text in enumerate(models.TEXTS * 2)]


def collection(folder: Path) -> Path:
    make_collection(folder, docs=DOCS, triples=[])
    (folder / "topics.dev.tsv").write_text("a\tinverted index\nb\tdogs and cats\nc\tnothing judged\n")
    (folder / "qrels.dev.txt").write_text("a 0 d0 1\nb 0 d3 1\nb 0 d1 0\n")
    return folder


def test_slices(tmp_path: Path) -> None:
    folder = collection(tmp_path / "c")
    whole = read_slice(ValidationSettings(collection=str(folder)))
    assert list(whole.topics["qid"]) == ["a", "b"]
    assert sorted(whole.docnos) == sorted(d["docno"] for d in DOCS)
    small = read_slice(ValidationSettings(collection=str(folder), documents=5, queries=1))
    assert len(small.topics) == 1 and len(small.docnos) == 5
    assert set(small.qrels["docno"]) <= set(small.docnos)
    assert read_slice(ValidationSettings(collection=str(folder), documents=5, queries=1)).docnos == small.docnos
    with pytest.raises(DataError, match="contains no topics.test2.tsv"):
        read_slice(ValidationSettings(collection=str(folder), split="test2"))
    (folder / "qrels.dev.txt").write_text("a 0 gone 1\n")
    with pytest.raises(DataError, match="1 judged documents are missing, such as 'gone'"):
        read_slice(ValidationSettings(collection=str(folder)))
    (folder / "qrels.dev.txt").write_text("a 0 d1 0\n")
    with pytest.raises(DataError, match="no query of the split 'dev' has a relevant document"):
        read_slice(ValidationSettings(collection=str(folder)))


@pytest.mark.parametrize("variant", ["bidirectional", pytest.param("causal", marks=pytest.mark.slow)])
def test_validation_measures_what_the_saved_model_gives(base: Path, tmp_path: Path, variant: Any) -> None:
    settings = ValidationSettings(collection=str(collection(tmp_path / "c")), steps=2, measures=["RR@10", "nDCG@10"])
    output = train(
        contrastive_config(base, tmp_path / "run", variant=variant, steps=4, learning_rate=1e-2, validation=settings)
    )
    points = [p for p in json.loads((output / "training_log.json").read_text()) if "eval_RR@10" in p]
    assert [p["step"] for p in points] == [2, 4]
    best = max(points, key=lambda p: (p["eval_RR@10"], -p["step"]))
    assert (output / f"checkpoints/checkpoint-{best['step']}").is_dir()
    csplade = CSPLADE(output)
    documents = csplade.encode_docs([d["text"] for d in DOCS])
    impacts = np.floor(documents.toarray() * 100 + 0.5)
    scores = csplade.encode_queries(["inverted index", "dogs and cats"]).toarray() @ impacts.T
    ranks = [
        1 + int((row > row[relevant]).sum() + (row[:relevant] == row[relevant]).sum()) for row, relevant in zip(scores, (0, 3))
    ]
    assert best["eval_RR@10"] == pytest.approx(np.mean([1 / rank if rank <= 10 else 0 for rank in ranks]))
    assert best["eval_nnz_document"] == pytest.approx((impacts > 0).sum() / len(DOCS))
    assert all(0 <= best[f"eval_{name}_{side}"] <= 1 for name in ("grounding", "own_weight") for side in ("query", "document"))
    assert best["eval_index_mb"] == pytest.approx(index_bytes(csr_matrix(impacts.astype(int))) / 1e6, rel=1e-3)
    assert plot_curves(output).read_bytes().startswith(b"\x89PNG")


def test_early_stopping_and_the_best_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.3, 0.9, 0.5, 0.4, 0.8])
    monkeypatch.setattr(Validation, "figures", lambda self: {"RR@10": next(values)})
    settings = ValidationSettings(collection=str(collection(tmp_path / "c")), steps=1, measures=["RR@10"], patience=2)
    config = contrastive_config(base, tmp_path / "run", steps=9, learning_rate=1e-2, save_steps=100, validation=settings)
    output = train(config)
    assert log_of(output, "eval_RR@10") == [0.3, 0.9, 0.5, 0.4]
    assert sorted(path.name for path in (output / "checkpoints").glob("checkpoint-*")) >= ["checkpoint-2", "checkpoint-4"]
    best = load_file(output / "checkpoints/checkpoint-2/model.safetensors")
    saved = load_file(output / "model.safetensors")
    assert all(torch.equal(saved[name.removeprefix("model.")], tensor) for name, tensor in best.items())


@pytest.mark.slow
def test_validation_through_terrier_is_the_same(base: Path, tmp_path: Path) -> None:
    points = []
    for terrier in (False, True):
        settings = ValidationSettings(collection=str(collection(tmp_path / "c")), steps=2, terrier=terrier)
        output = train(contrastive_config(base, tmp_path / str(terrier), steps=2, validation=settings))
        points.append(next(p for p in json.loads((output / "training_log.json").read_text()) if "eval_nDCG@10" in p))
    for name in ("eval_nDCG@10", "eval_RR@10", "eval_nnz_document"):
        assert points[0][name] == pytest.approx(points[1][name])
    assert points[0]["eval_index_mb"] == pytest.approx(points[1]["eval_index_mb"], rel=0.3)  # here a third are fixed files


# ---------------------------------------------------------------------- reports


def test_reports() -> None:
    assert reporters(None) in ([], ["tensorboard"])
    assert reporters([]) == []
    with pytest.raises(ConfigError, match="report_to: tensorbord is not supported"):
        reporters(["tensorbord"])
    with pytest.raises(ConfigError, match="report_to: .*not installed"):
        reporters(["swanlab"])
