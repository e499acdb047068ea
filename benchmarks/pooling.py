"""Streamed pooling against the naive graph with Llama 3's vocabulary: peak memory and time, forward and backward.

Usage: python benchmarks/pooling.py [--width 1024] [--repeat 3]

Each measurement runs in its own process with one thread, the two kinds in turns. Peak memory is the process's largest resident
set minus the one with the inputs. Times are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

BATCH, LENGTH, VOCABULARY = 8, 128, 128_256
KINDS = ("naive", "streamed")


def measure(kind: str, width: int, train_head: bool) -> dict[str, float]:
    """Run one forward and backward pass in this process."""
    import torch

    from pyterrier_csplade.model.head import activate, max_pool_logits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(BATCH, LENGTH, width, requires_grad=True)
    weight = torch.randn(VOCABULARY, width).mul_(0.02).requires_grad_(train_head)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    # About 0.5% of the terms are active, as in a sparse model; the gradient of all others is 0.
    threshold = 0.02 * width**0.5 * 4.2
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if kind == "naive":
        logits = (hidden @ weight.T).masked_fill(~mask[..., None], float("-inf"))
        weights = torch.log1p(torch.relu(logits - threshold)).amax(dim=1)
    else:
        weights = activate(max_pool_logits(hidden, weight, mask) - threshold)
    forward = time.process_time() - start
    weights.square().sum().backward()
    total = time.process_time() - start
    assert hidden.grad is not None
    return {
        "forward_s": forward,
        "total_s": total,
        "peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "active_share": float((weights > 0).float().mean()),
        "gradient_norm": float(hidden.grad.norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024, help="hidden size")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--train-head", action="store_true", help="compute a gradient for the LM head, as in full fine-tuning")
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(measure(args.kind, args.width, args.train_head)))
        return
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeat):
        for kind in KINDS:
            command = [sys.executable, __file__, "--kind", kind, "--width", str(args.width)]
            command += ["--train-head"] if args.train_head else []
            results[kind].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    medians = {kind: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for kind, runs in results.items()}
    for kind, figures in medians.items():
        print(kind, json.dumps({key: round(value, 4) for key, value in figures.items()}))
    for key in ("forward_s", "total_s", "peak_mib"):
        print(f"streamed / naive, {key}: {medians['streamed'][key] / medians['naive'][key]:.3f}")


if __name__ == "__main__":
    main()
