"""Measure the search times of the arms that run.py evaluated, alternating between the arms.

Usage: python times.py OUTPUT [--rounds 5] [--batch 50]

Each round searches the same number of queries with every arm and algorithm. The table shows the median round, in milliseconds
per query; it is also written to ``OUTPUT/times.json``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_csplade import ImpactIndex

ALGORITHMS = ("terrier", "exhaustive", "maxscore", "bmp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=50, help="queries of a round")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for collection in sorted({path.stem.removeprefix("result-") for path in arguments.output.glob("*/result-*.json")}):
        arms = sorted(path.parent for path in arguments.output.glob(f"*/result-{collection}.json"))
        queries = {arm.name: pd.read_json(arm / f"queries-{collection}.json", dtype={"qid": str}) for arm in arms}
        for algorithm in ALGORITHMS:
            retrievers = {arm.name: searcher(arm / f"index-{collection}", algorithm) for arm in arms}
            for round_ in range(arguments.rounds + 1):  # the first one reads files and compiles kernels
                first = round_ * arguments.batch % len(queries[arms[0].name])
                for arm, retriever in retrievers.items():
                    batch = queries[arm].iloc[first : first + arguments.batch]
                    started = time.perf_counter()
                    retriever(batch)
                    milliseconds = 1000 * (time.perf_counter() - started) / len(batch)
                    rows.append({"collection": collection, "arm": arm, algorithm: milliseconds, "round": round_})
    times = pd.DataFrame([row for row in rows if row["round"] > 0])
    table = times.groupby(["collection", "arm"])[list(ALGORITHMS)].median()
    table.reset_index().to_json(arguments.output / "times.json", orient="records", indent=1)
    sys.stdout.write(table.to_string(float_format="{:.3f}".format) + "\n")


def searcher(directory: Path, algorithm: str) -> Any:
    """Return a retriever of 100 documents."""
    return ImpactIndex(directory).retriever(algorithm=algorithm, num_results=100)


if __name__ == "__main__":
    main()
