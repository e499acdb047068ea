"""Encoding texts to impacts: CPU time and peak memory of this package and other packages with the same weights.

Usage: python benchmarks/encoding.py [--kind A|B] [--docs 64] [--repeat 3] [--dtypes float32 bfloat16] [--output DIR]

Install the other packages with: pip install pyterrier-splade pyterrier-alpha sentence-transformers. Systems whose package is
not installed are left out. An interrupted run resumes. Each measurement runs in its own process with one thread, the systems in
turns; medians are reported. Kind A is a Llama of 8 layers of width 512 with a vocabulary of 128,256; kind B has 4 layers of
width 256 and a vocabulary of 32,000. Weights are random, lengths are as in MS MARCO. Peak memory is the largest resident set
minus the one with the loaded model. "query" is the CPU time for one query of 8 tokens. Impacts are compared with the plain
loop's impacts in float32, by the share of equal impacts and the largest difference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from _systems import KINDS, SYSTEMS, language_model, msmarco_like_texts, word_tokenizer

QUERIES = 10
REFERENCE = ("plain loop", "float32")


def measure(kind_name: str, system: str, dtype: str, docs: int, output: Path) -> None:
    """Encode in this process, and write figures and impacts."""
    torch.set_num_threads(1)
    kind = KINDS[kind_name]
    lm, tokenizer = language_model(kind, getattr(torch, dtype)), word_tokenizer(kind.vocabulary)
    texts = msmarco_like_texts(docs, kind.vocabulary)
    encode = SYSTEMS[system](lm, tokenizer, kind.batch_size)
    encode(["w1 w2 w3"])
    with open("/proc/self/clear_refs", "w") as file:  # reset the peak: making the weights takes more memory than holding them
        file.write("5")
    before, start = peak_mib(), time.process_time()
    vectors = encode(texts)
    seconds, peak = time.process_time() - start, peak_mib() - before
    queries = [" ".join(text.split()[:8]) for text in texts[:QUERIES]]
    start = time.process_time()
    for query in queries:
        encode([query])
    per_query = (time.process_time() - start) / len(queries)
    figures = {"ms_per_text": 1000 * seconds / docs, "peak_mib": peak, "query_ms": 1000 * per_query}
    output.write_text(json.dumps({"figures": figures, "vectors": vectors}))


def peak_mib() -> float:
    """Return the largest resident set since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def agreement(expected: list[dict[str, int]], found: list[dict[str, int]]) -> tuple[float, int]:
    """Compute the share of equal impacts among the terms of both vectors, and the largest difference."""
    pairs = [(a.get(term, 0), b.get(term, 0)) for a, b in zip(expected, found) for term in {*a, *b}]
    return statistics.fmean(a == b for a, b in pairs), max(abs(a - b) for a, b in pairs)


def run(args: argparse.Namespace) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Measure all systems in turns, except for measurements that the output directory already has."""
    results = defaultdict(list)
    args.output.mkdir(parents=True, exist_ok=True)
    for turn in range(args.repeat):
        for dtype in args.dtypes:
            for system in args.systems:
                output = args.output / f"{args.kind}-{args.docs}-{dtype}-{system}-{turn}.json"
                if not output.exists():
                    command = [sys.executable, __file__, "--kind", args.kind, "--docs", str(args.docs)]
                    command += ["--measure", system, dtype, str(output)]
                    process = subprocess.run(command, capture_output=True, text=True)
                    if process.returncode:
                        print(f"{system}, {dtype}: {(process.stderr.strip().splitlines() or ['killed'])[-1]}", file=sys.stderr)
                        continue
                results[system, dtype].append(json.loads(output.read_text()))
    return dict(results)


def table(results: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """Format medians as a Markdown table, with ratios to the floor and to sentence-transformers in the same dtype."""
    medians = {
        key: {name: statistics.median(run["figures"][name] for run in runs) for name in runs[0]["figures"]}
        for key, runs in results.items()
    }
    names = [
        "system",
        "dtype",
        "ms / text",
        "of floor",
        "of SparseEncoder",
        "peak MiB",
        "query ms",
        "equal",
        "largest difference",
    ]
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for (system, dtype), figures in medians.items():
        ratios = []
        for other in ("floor", "sentence-transformers"):
            base = medians.get((other, dtype))
            ratios.append(f"{figures['ms_per_text'] / base['ms_per_text']:.2f}" if base else "-")
        same = ["-", "-"]
        if REFERENCE in results and system != "floor":
            share, largest = agreement(results[REFERENCE][0]["vectors"], results[system, dtype][0]["vectors"])
            same = [f"{share:.2%}", str(largest)]
        cells = [f"{figures['ms_per_text']:.1f}", *ratios, f"{figures['peak_mib']:.0f}", f"{figures['query_ms']:.1f}", *same]
        rows.append("| " + " | ".join([system, dtype, *cells]) + " |")
    reference = results.get(REFERENCE)
    if reference:
        entries = statistics.fmean(len(vector) for vector in reference[0]["vectors"])
        rows.append(f"\n{entries:.0f} impacts above 0 a text")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="B")
    parser.add_argument("--docs", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("encoding"), help="directory of the measurements")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        system, dtype, output = args.measure
        measure(args.kind, system, dtype, args.docs, Path(output))
        return
    print(table(run(args)))


if __name__ == "__main__":
    main()
