"""The sparsity budget: the controller against simulated and real runs."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from inside.training import POSTING_BYTES, WeightSchedule, make_schedule
from pyterrier_csplade import ConfigError
from pyterrier_csplade.training import ContrastiveConfig, TargetNnz, load_config, train
from support.training_runs import contrastive_config, log_of, make_base


class Plant:
    """Vectors whose active terms follow lambda with a delay: log nnz falls by ``elasticity`` for a log of lambda."""

    def __init__(self, start: float, elasticity: float, delay: float) -> None:
        self.log_nnz, self.elasticity, self.delay = math.log(start), elasticity, delay

    def step(self, weight: float, rate: float = 1.0) -> float:
        wanted = math.log(50) - self.elasticity * (math.log(weight) - math.log(0.01))
        self.log_nnz += rate * (wanted - self.log_nnz) / self.delay
        return math.exp(self.log_nnz)


def run(schedule: WeightSchedule, plants: dict[str, Plant], steps: int) -> dict[str, list[float]]:
    nnz: dict[str, list[float]] = {"query": [], "document": []}
    for step in range(1, steps + 1):
        weights = dict(zip(("query", "document"), schedule.weights(step - 1)))
        for side, plant in plants.items():
            nnz[side].append(plant.step(weights[side]))
        schedule.observe(step, {f"nnz_{side}": values[-1] for side, values in nnz.items()})
    return nnz


@pytest.mark.parametrize("start", [20.0, 10_000.0])
@pytest.mark.parametrize("elasticity", [0.3, 0.8])
@pytest.mark.parametrize(("steps", "delay"), [(300, 15), (3000, 150), (3000, 15)])
def test_the_target_is_reached_and_held(start: float, elasticity: float, steps: int, delay: float) -> None:
    plants = {side: Plant(start, elasticity, delay) for side in ("query", "document")}
    targets = {"query": 30.0, "document": 150.0}
    schedule = WeightSchedule({"query": 0.003, "document": 0.003}, targets, ramp=steps / 3, steps=steps)
    nnz = run(schedule, plants, steps)
    for side, target in targets.items():
        last = nnz[side][-steps // 10 :]
        assert all(abs(value / target - 1) < 0.1 for value in last), (side, last[0], last[-1])
        assert min(nnz[side]) > min(start, target) / 2


@pytest.mark.parametrize(("steps", "delay", "noise"), [(400, 15, 0.3), (3000, 150, 0.1)])
def test_noise_of_batches_does_not_decide_the_end(steps: int, delay: int, noise: float) -> None:
    """Batches that differ as those of 16 and of 512 passages do: 20 runs end within 6% of the target (root mean square)."""
    errors = []
    for seed in range(20):
        draw = random.Random(seed)
        schedule = WeightSchedule(
            {"query": 0.003, "document": 0.0}, {"query": 40.0, "document": None}, ramp=steps / 3, steps=steps
        )
        plant = Plant(2000.0, 0.6, delay)
        for step in range(1, steps + 1):
            nnz = plant.step(schedule.weights(step - 1)[0], rate=(1 + math.cos(math.pi * step / steps)) / 2)
            schedule.observe(step, {"nnz_query": nnz * math.exp(draw.gauss(0, noise)), "nnz_document": 1.0})
        errors.append(plant.log_nnz - math.log(40))
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) < 0.06


def test_state_goes_on_exactly() -> None:
    def make() -> WeightSchedule:
        return WeightSchedule({"query": 0.1, "document": 0.2}, {"query": 30.0, "document": None}, ramp=10, steps=40)

    whole, first = make(), make()
    for step in range(1, 31):
        whole.observe(step, {"nnz_query": 400.0 / step, "nnz_document": 1.0})
        if step <= 15:
            first.observe(step, {"nnz_query": 400.0 / step, "nnz_document": 1.0})
    second = make()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in range(16, 31):
        second.observe(step, {"nnz_query": 400.0 / step, "nnz_document": 1.0})
    assert second.weights(30) == whole.weights(30)
    assert whole.weights(5)[1] == pytest.approx(0.2 * 0.25)


def test_empty_vectors_lower_lambda() -> None:
    schedule = WeightSchedule({"query": 1.0, "document": 1.0}, {"query": 30.0, "document": 30.0}, ramp=0, steps=100)
    for step in range(1, 100):
        schedule.observe(step, {"nnz_query": 0.0, "nnz_document": 3000.0})
    query, document = schedule.weights(99)
    assert query < 0.01 and document > 100


def test_targets_of_a_configuration(tmp_path: Path) -> None:
    text = "model: m\noutput: o\ndata: d.jsonl\nlearning_rate: 1e-4\nsteps: 10\n"
    path = tmp_path / "c.yaml"
    path.write_text(text + "target_nnz: {query: 30, document: 150}\n")
    config = load_config(path, ContrastiveConfig)
    assert config.target_nnz == TargetNnz(query=30, document=150)
    assert set(make_schedule(config).sides) == {"query", "document"}
    path.write_text(text)
    schedule = make_schedule(load_config(path, ContrastiveConfig))
    assert not schedule.sides and schedule.weights(10**6) == (schedule.fixed["query"], schedule.fixed["document"])
    path.write_text(text + "target_index_mb: 2600\ntarget_index_documents: 8841823\n")
    assert load_config(path, ContrastiveConfig).targets == {
        "query": None, "document": pytest.approx(2600e6 / 8841823 / POSTING_BYTES),
    }  # fmt: skip
    for line, message in (
        ("target_nnz: {query: 0.5}", "target_nnz: query must be at least 1, found 0.5"),
        ("target_nnz: {documents: 5}", "target_nnz: unknown setting 'documents'; did you mean 'document'"),
        ("target_index_mb: 5", "target_index_mb and target_index_documents must be set together"),
        ("target_index_mb: 5\ntarget_index_documents: 9\ntarget_nnz: {document: 5}", "contradict each other"),
        ("max_bad_rows: -1", "max_bad_rows must not be negative"),
        ("validation: {collection: c, measures: [nDCG@ten]}", r"ir_measures has no measure 'nDCG@ten'"),
        ("validation: {collection: c, steps: 0}", "validation: steps must be positive"),
        ("validation: {split: dev}", "validation: missing setting 'collection'"),
    ):
        path.write_text(f"{text}{line}\n")
        with pytest.raises(ConfigError, match=message):
            load_config(path, ContrastiveConfig)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def test_the_controller_resumes_exactly(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "steps": 6,
        "save_steps": 3,
        "target_nnz": TargetNnz(query=20, document=30),
        "learning_rate": 1e-2,
    }
    whole = train(contrastive_config(base, tmp_path / "whole", **settings))
    parts = Path(shutil.copytree(whole, tmp_path / "parts"))
    (parts / "checkpoints/checkpoint-6").rename(tmp_path / "aside")
    train(contrastive_config(base, tmp_path / "parts", **settings), resume=True)
    for name in ("loss", "lambda_query", "lambda_document", "nnz_document"):
        assert log_of(parts, name) == log_of(whole, name)
