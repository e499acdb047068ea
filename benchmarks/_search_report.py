"""The tables and plots of benchmarks/search.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_csplade import plot_tradeoff

DEPTHS = (10, 1000)


def growth(collections: dict[str, dict[str, Any]]) -> list[str]:
    """Format a table of times and memory of synthetic collections of several sizes."""
    names = [
        "documents",
        "postings",
        "build processor s",
        "peak MB of the build",
        "bytes a posting",
        "with blocks",
        "reorder s",
    ]
    systems = [(system, label, k) for system, label in (("exhaustive", ""), ("MaxScore", ""), ("bmp", "1.0")) for k in DEPTHS]
    titles = [f"{system} {k}, processor ms" for system, _, k in systems]
    lines = ["\n## Growth\n", "| " + " | ".join(names + titles) + " |", "|---" * len(names + titles) + "|"]
    for name, found in collections.items():
        if name.startswith("synthetic"):
            times = {(row["system"], row["label"], row["k"]): row["processor"] for row in found["rows"]}
            facts = [f"{found['facts'].get(n, float('nan')):,.4g}" for n in names]
            lines.append("| " + " | ".join([*facts, *(f"{times[system]:.3f}" for system in systems)]) + " |")
    return lines


def report(collections: dict[str, dict[str, Any]], output: Path) -> None:
    (output / "results.json").write_text(json.dumps(collections, indent=2) + "\n", encoding="utf-8")
    lines = ["# Search"]
    for name, found in collections.items():
        lines += [f"\n## {name}\n", "```json", json.dumps({k: v for k, v in found.items() if k != "rows"}, indent=1), "```"]
        for k in DEPTHS:
            rows = [row for row in found["rows"] if row["k"] == k]
            columns = [
                "system",
                "label",
                "mrt",
                "processor",
                "ratio",
                f"exact_recall@{k}",
                "same ranking",
                *(["nDCG@10"] if "nDCG@10" in rows[0] else []),
            ]
            lines += [f"\nk = {k}\n", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += [
                "| " + " | ".join(f"{row[c]:.3f}" if isinstance(row[c], float) else str(row[c]) for c in columns) + " |"
                for row in rows
            ]
            frame = pd.DataFrame(rows)[[c for c in ("system", "label", "mrt", "nDCG@10", f"exact_recall@{k}") if c in rows[0]]]
            plot_tradeoff(
                frame, output / f"{name}-{k}.png", title=f"{name}, {found['facts']['documents']:,} documents, k = {k}"
            )
    lines += growth(collections)
    (output / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
