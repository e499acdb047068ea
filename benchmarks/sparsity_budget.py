"""A sparsity budget against fixed lambdas: one target for three variants, compared with a published and a tuned lambda.

Usage: python benchmarks/sparsity_budget.py COLLECTIONS OUTPUT [--steps 900] [--trials 4]

OUTPUT gets ``sparsity_budget.png``, ``sparsity_budget.json`` and the runs. An interrupted command resumes with the next run.

A small Llama (2 layers of width 64, 2,048 terms) is adapted to the documents of medquad, and each variant is trained on its
training queries from there. The first runs use ``target_nnz``, with one configuration for all variants. The second use the
fixed lambda that the paper publishes for 1B. For the third, the lambdas of queries and documents are tuned on the causal
variant (at most --trials runs, from the mean lambdas of its budget, until both sides are within 10% of the target) and the best
are used for the other two. The script prints the active terms of training texts over the last tenth of the steps, when the
learning rate is nearly 0, and nDCG@10 and the active terms of dev queries and documents.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import pyterrier_csplade
from pyterrier_csplade.data.jsonl import read_jsonl
from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig, TargetNnz, ValidationSettings, adapt, train

TARGET = {"query": 40.0, "document": 100.0}
VARIANTS = ("causal", "echo", "bidirectional")
#: lambda of the paper's 1B models (Table 3); the budget starts from the same values.
PUBLISHED = {"query": 0.003, "document": 0.003}
BUDGET, PAPER, TUNED = "budget", "published lambda", "tuned lambda"


def prepare(args: argparse.Namespace) -> str:
    """Make and adapt the initial model of all runs."""
    collection, start, adapted = args.collections / "medquad", args.output / "start", args.output / "adapted"
    if (adapted / "model.safetensors").exists():
        return str(adapted)
    texts = [document["text"] for _, document in read_jsonl(str(collection / "docs.jsonl.gz"))]
    tokenizer = AutoTokenizer.from_pretrained(Path(pyterrier_csplade.__file__).parent / "tiny", trust_remote_code=False)
    tokenizer = tokenizer.train_new_from_iterator(texts, 2048, show_progress=False)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        initializer_range=0.05, **shape,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(start)
    tokenizer.save_pretrained(start)
    adapt(
        AdaptationConfig(
            model=str(start),
            output=str(adapted),
            corpus=str(collection),
            steps=args.steps,
            learning_rate=3e-3,
            batch_size=16,
            sequence_length=64,
            bf16=False,
            save_steps=100_000,
            report_to=[],
            logging_steps=50,
        )  # fmt: skip
    )
    return str(adapted)


def run(args: argparse.Namespace, variant: Any, kind: str, weights: dict[str, float], name: str = "") -> dict[str, Any]:
    """Train; return figures about the vectors of the dev split, and the final lambdas."""
    output, collection = args.output / f"{variant}-{name or kind.replace(' ', '-')}", str(args.collections / "medquad")
    config = ContrastiveConfig(
        model=prepare(args), output=str(output), data=collection, variant=variant, steps=args.steps, learning_rate=1e-3,
        batch_size=16, negatives=1, query_length=16, document_length=32, temperature=5.0, lambda_query=weights["query"],
        lambda_document=weights["document"], bf16=False, save_steps=100_000, logging_steps=10, report_to=[],
        target_nnz=TargetNnz(**TARGET) if kind == BUDGET else None,
        validation=ValidationSettings(collection=collection, steps=args.steps, documents=300, queries=100),
    )  # fmt: skip
    if not (output / "model.safetensors").exists():
        train(config, resume=True)
    log = json.loads((output / "training_log.json").read_text())
    end = next(point for point in reversed(log) if "eval_nnz_query" in point)
    steps = [point for point in log if "nnz_query" in point and "loss" in point]
    last = [point for point in steps if point["step"] > 0.9 * args.steps]
    held = [point for point in steps if point["step"] > args.steps / 3]
    nnz = {side: fmean(point[f"nnz_{side}"] for point in last) for side in TARGET}
    return {
        "variant": variant, "kind": kind, "run": output.name, "nDCG@10": end["eval_nDCG@10"], "nnz": nnz,
        "of_target": {side: nnz[side] / TARGET[side] for side in TARGET}, "lambda": weights,
        "dev_nnz": {side: end[f"eval_nnz_{side}"] for side in TARGET},
        "mean_lambda": {side: geometric_mean(point[f"lambda_{side}"] for point in held) for side in TARGET},
    }  # fmt: skip


def tune(args: argparse.Namespace, weights: dict[str, float]) -> dict[str, Any]:
    """Adjust both lambdas by the secant method in logarithms until the causal variant is within 10% of the target."""
    elasticity = dict.fromkeys(TARGET, -1.2)  # a first guess
    before: dict[str, Any] | None = None
    trials = []
    for number in range(args.trials):
        found = run(args, "causal", TUNED, weights, f"trial-{number}")
        report(found)
        trials.append(found)
        off = {side: math.log(max(found["of_target"][side], 0.01)) for side in TARGET}
        if all(abs(value) < 0.1 for value in off.values()):
            break
        for side in TARGET if before else ():
            moved = math.log(found["lambda"][side] / before["lambda"][side])  # type: ignore[index]
            change = off[side] - math.log(max(before["of_target"][side], 0.01))  # type: ignore[index]
            if abs(moved) > 0.05:
                elasticity[side] = min(-0.3, max(-3.0, change / moved))
        weights = {side: found["lambda"][side] * math.exp(-off[side] / elasticity[side]) for side in TARGET}
        before = found
    return min(trials, key=lambda trial: max(abs(math.log(max(value, 0.01))) for value in trial["of_target"].values()))


def report(row: dict[str, Any]) -> None:
    """Print one line of the table, with the mean lambdas after the ramp."""
    cells = [f"{side} {row['nnz'][side]:6.1f} ({row['of_target'][side]:.2f} x target)" for side in TARGET]
    lambdas, dev = ("/".join(f"{value:.3g}" for value in row[name].values()) for name in ("mean_lambda", "dev_nnz"))
    print(
        f"{row['variant']:<14}{row['kind']:<18}{', '.join(cells)}; dev {dev}, nDCG@10 {row['nDCG@10']:.3f}; lambda {lambdas}",
        flush=True,
    )


def draw(rows: list[dict[str, Any]], output: Path) -> None:
    """Plot the active terms during training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, side in zip(figure.subplots(1, 2), TARGET):
        for row in rows:
            log = json.loads((output / row["run"] / "training_log.json").read_text())
            points = [(point["step"], point[f"nnz_{side}"]) for point in log if f"nnz_{side}" in point]
            colour, style = f"C{VARIANTS.index(row['variant'])}", {BUDGET: "-", PAPER: "--", TUNED: ":"}[row["kind"]]
            axis.plot(*zip(*points), style, color=colour, label=f"{row['variant']}, {row['kind']}")
        axis.axhline(TARGET[side], color="black", linewidth=0.8)
        axis.set(title=f"active terms of a {side}", xlabel="optimizer steps", yscale="log")
        axis.grid(alpha=0.3, which="both")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(output / "sparsity_budget.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=900, help="of every phase")
    parser.add_argument("--trials", type=int, default=4, help="runs that tune the fixed lambda")
    args = parser.parse_args()
    rows = []
    for kind in (BUDGET, PAPER):
        for variant in VARIANTS:
            rows.append(run(args, variant, kind, PUBLISHED))
            report(rows[-1])
    rows.append(tune(args, rows[0]["mean_lambda"]))
    tuned = rows[-1]["lambda"]
    for variant in VARIANTS[1:]:
        rows.append(run(args, variant, TUNED, tuned))
        report(rows[-1])
    (args.output / "sparsity_budget.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, args.output)


if __name__ == "__main__":
    main()
