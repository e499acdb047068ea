"""Does a sparsity budget hold where a fixed lambda does not? One target and one lambda for the three variants.

A small Llama of random weights (2 layers of width 64, the tokenizer of csplade-tiny) is trained on medquad for each variant,
once with a fixed lambda and once with ``target_nnz``. Printed are the active terms of dev queries and documents at the end, and
how far they are from the target; OUTPUT gets ``sparsity_budget.json`` and the runs with their curves.

Usage: python benchmarks/sparsity_budget.py COLLECTIONS OUTPUT [--steps 240]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import pyterrier_csplade
from pyterrier_csplade.training import ContrastiveConfig, TargetNnz, ValidationSettings, plot_curves, train

TARGET = TargetNnz(query=30, document=100)
LAMBDA = 3e-4
VARIANTS = ("causal", "echo", "bidirectional")


def make_model(path: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(Path(pyterrier_csplade.__file__).parent / "tiny")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=4, initializer_range=0.1, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run(model: Path, collections: Path, output: Path, variant: Any, steps: int, target: TargetNnz | None) -> dict[str, float]:
    collection = str(collections / "medquad")
    config = ContrastiveConfig(
        model=str(model), output=str(output), data=collection, variant=variant, steps=steps, learning_rate=3e-3,
        batch_size=16, negatives=1, query_length=16, document_length=32, temperature=10, lambda_query=LAMBDA,
        lambda_document=LAMBDA, bf16=False, warmup_steps=10, save_steps=100_000, target_nnz=target,
        validation=ValidationSettings(collection=collection, steps=steps, documents=600, queries=200),
    )  # fmt: skip
    train(config)
    plot_curves(output)
    log = json.loads((output / "training_log.json").read_text())
    return next(point for point in reversed(log) if "eval_nnz_query" in point)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    arguments = parser.parse_args()
    model = make_model(arguments.output / "model")
    rows = []
    for variant in VARIANTS:
        for kind, target in (("fixed lambda", None), ("budget", TARGET)):
            folder = arguments.output / f"{variant}-{kind.replace(' ', '-')}"
            point = run(model, arguments.collections, folder, variant, arguments.steps, target)
            sizes = {"query": point["eval_nnz_query"], "document": point["eval_nnz_document"]}
            off = {side: sizes[side] / getattr(TARGET, side) for side in sizes}
            rows.append({"variant": variant, "kind": kind, **sizes, "nDCG@10": point["eval_nDCG@10"], "of target": off})
            print(rows[-1], flush=True)
            (arguments.output / "sparsity_budget.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
