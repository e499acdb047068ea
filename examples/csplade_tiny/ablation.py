"""The effect of adaptation on a small model: contrastive runs from the adapted and from the unadapted language model.

Usage: python ablation.py BUILD COLLECTIONS OUTPUT

OUTPUT gets ``ablation.json``, ``ablation.md`` and ``ablation.png``; runs that are in ``ablation.json`` are not repeated. The
recipe is ``train-1.yaml``, cut to 60 steps of 32 queries and 64 tokens, and for the bidirectional variant also the same recipe
with the paper's temperature of 1 and its lambda for 1B. Three seeds for each initial model make 24 runs. Each run is evaluated
by exact search for the dev queries of openstax over all their relevant paragraphs and ``DISTRACTORS`` others.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
from evaluate import documents, topics_and_qrels
from ir_measures import nDCG

from pyterrier_csplade import CSPLADE
from pyterrier_csplade.training import ContrastiveConfig, load_config, train

PAPER = {"temperature": 1.0, "lambda_query": 0.003, "lambda_document": 0.003, "flops_warmup_steps": 1 / 3}
#: Variant and settings of each column of the plot.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("causal", {}),
    "echo": ("echo", {}),
    "bidirectional": ("bidirectional", {}),
    "bidirectional, temperature 1": ("bidirectional", PAPER),
}
STARTS = {"unadapted": "lm", "adapted": "adapted"}
SEEDS = (1, 2, 3)
SETTINGS: dict[str, Any] = {"steps": 60, "batch_size": 32, "document_length": 64, "warmup_steps": 6, "logging_steps": 2}
DISTRACTORS = 1000


def dev_slice(
    collections: Path, queries: int | None = None, distractors: int = DISTRACTORS
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, str]]]:
    """Read dev queries of openstax (the first or all), their judgements, all relevant documents, and a sample of others."""
    topics, qrels = topics_and_qrels(collections / "openstax", "dev")
    topics = topics[:queries]
    qrels = qrels[qrels["qid"].isin(topics["qid"])]
    everything = list(documents(collections / "openstax"))
    others = [d for d in everything if d["docno"] not in set(qrels["docno"])]
    relevant = [d for d in everything if d["docno"] in set(qrels["docno"])]
    return topics, qrels, relevant + random.Random(0).sample(others, distractors)


def score(model: CSPLADE, topics: pd.DataFrame, qrels: pd.DataFrame, docs: list[dict[str, str]]) -> dict[str, float]:
    vectors = model.encode_docs([d["text"] for d in docs])
    queries = model.encode_queries(topics["query"].tolist())
    scores = (queries @ vectors.T).toarray()
    run = []
    for qid, row in zip(topics["qid"], scores):
        best = [i for i in np.argsort(-row, kind="stable")[:10] if row[i] > 0]
        run += [ir_measures.ScoredDoc(qid, docs[i]["docno"], float(row[i])) for i in best]
    judged = [ir_measures.Qrel(r.qid, r.docno, r.label) for r in qrels.itertuples()]
    return {
        "nDCG@10": ir_measures.calc_aggregate([nDCG @ 10], judged, run)[nDCG @ 10],
        "nnz_query": queries.nnz / queries.shape[0],
        "nnz_document": vectors.nnz / vectors.shape[0],
        "empty": float(np.mean(np.diff(vectors.indptr) == 0)),
    }


def run_one(build: Path, output: Path, arm: str, start: str, seed: int, data: tuple[Any, ...]) -> dict[str, Any]:
    variant, changes = ARMS[arm]
    base = load_config(Path(__file__).with_name("train-1.yaml"), ContrastiveConfig)
    settings = {**vars(base), **SETTINGS, **changes, "variant": variant, "seed": seed}
    name = f"{arm}-{start}-{seed}".replace(", ", "-").replace(" ", "-")
    settings |= {"model": str(build / STARTS[start]), "data": str(build / "train.jsonl.gz"), "output": str(output / name)}
    path = train(ContrastiveConfig(**settings))
    curves = [p for p in json.loads((path / "training_log.json").read_text()) if "accuracy" in p]
    figures = score(CSPLADE(path, dtype="bfloat16"), *data)
    return {"arm": arm, "start": start, "seed": seed, **figures, "curves": curves}


def is_collapsed(run: dict[str, Any]) -> bool:
    """Return whether most vectors are empty, or the accuracy in the batch is below 0.1 over the last ten steps."""
    return bool(run["empty"] > 0.5 or np.mean([p["accuracy"] for p in run["curves"][-5:]]) < 0.1)


def mean_and_deviation(values: pd.Series) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def table(runs: list[dict[str, Any]]) -> str:
    frame = pd.DataFrame([{**run, "collapsed": is_collapsed(run)} for run in runs]).drop(columns=["curves", "seed"])
    grouped = frame.groupby(["arm", "start"], sort=False)
    summary = grouped[["nDCG@10", "nnz_query", "nnz_document"]].agg(mean_and_deviation)
    summary.insert(0, "collapsed", grouped["collapsed"].agg(lambda v: f"{int(v.sum())} of {len(v)}"))
    return str(summary.reset_index().to_markdown(index=False))


def plot(runs: list[dict[str, Any]], path: Path, arms: Sequence[str] = tuple(ARMS)) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = {"rank_loss": "ranking loss", "nnz_document": "active terms of a document", "accuracy": "accuracy in the batch"}
    fig, axes = plt.subplots(len(figures), len(arms), figsize=(3.5 * len(arms), 9), sharex=True, sharey="row")
    for row, (key, label) in zip(axes, figures.items()):
        for axis, arm in zip(row, arms):
            for run in runs:
                if run["arm"] == arm:
                    colour = "C0" if run["start"] == "adapted" else "C1"
                    points = [(p["step"], p[key]) for p in run["curves"] if key in p]
                    axis.plot(*zip(*points), color=colour, alpha=0.8, label=run["start"] if run["seed"] == SEEDS[0] else None)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(label)
    for axis, arm in zip(axes[0], arms):
        axis.set_title(arm)
    for row in axes[:2]:
        row[0].set_yscale("log")
    axes[0][0].legend()
    for axis in axes[-1]:
        axis.set_xlabel("optimizer step")
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def main(build: Path, collections: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    record = output / "ablation.json"
    runs = json.loads(record.read_text()) if record.exists() else []
    done = {(r["arm"], r["start"], r["seed"]) for r in runs}
    data = dev_slice(collections)
    for seed in SEEDS:
        for arm in ARMS:
            for start in STARTS:
                if (arm, start, seed) not in done:
                    runs.append(run_one(build, output, arm, start, seed, data))
                    record.write_text(json.dumps(runs) + "\n")
    (output / "ablation.md").write_text(table(runs) + "\n")
    plot(runs, output / "ablation.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
