"""Measure the times of the arms that run.py evaluated, alternating between the arms.

Usage: python times.py OUTPUT COLLECTION ... [--rounds 5] [--batch 50]

Each round encodes a batch of documents with every arm, and searches a batch of queries with every arm and algorithm. The tables
show the medians: documents per second, and milliseconds per query. They are also written to ``OUTPUT/times.json``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_csplade import CSPLADE, ImpactIndex

sys.path.insert(0, str(Path(__file__).resolve().parent))

from run import FOLDED, documents

ALGORITHMS = ("terrier", "exhaustive", "maxscore", "bmp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("collections", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=50, help="documents or queries of a round")
    arguments = parser.parse_args()
    found = []
    for collection in arguments.collections:
        arms = sorted(path.parent for path in arguments.output.glob(f"*/result-{collection.name}.json"))
        times = pd.DataFrame([*encoding_times(arms, collection, arguments), *search_times(arms, collection, arguments)])
        medians = times.groupby("arm").median()
        sys.stdout.write(f"{collection.name}\n{medians.to_string(float_format='{:.3f}'.format)}\n")
        found.append(medians.assign(collection=collection.name))
    pd.concat(found).reset_index().to_json(arguments.output / "times.json", orient="records", indent=1)


def encoding_times(arms: list[Path], collection: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Encode batches of documents; folding existing vectors takes no part in this."""
    encoders = {arm.name: CSPLADE(arm / "trained").doc_encoder() for arm in arms if not arm.name.startswith(FOLDED)}
    texts = list(islice(documents(collection), (arguments.rounds + 1) * arguments.batch))
    for round_ in range(arguments.rounds + 1):
        batch = texts[round_ * arguments.batch :][: arguments.batch]
        for arm, encoder in encoders.items():
            started = time.perf_counter()
            list(encoder.transform_iter(batch))
            if round_ > 0:  # the first one loads the models
                yield {"arm": arm, "documents_per_second": len(batch) / (time.perf_counter() - started)}


def search_times(arms: list[Path], collection: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Search batches of queries with each algorithm."""
    queries = {arm.name: pd.read_json(arm / f"queries-{collection.name}.json", dtype={"qid": str}) for arm in arms}
    indexes = {arm.name: ImpactIndex(arm / f"index-{collection.name}") for arm in arms}
    for algorithm in ALGORITHMS:
        retrievers = {arm: index.retriever(algorithm=algorithm, num_results=100) for arm, index in indexes.items()}
        for round_ in range(arguments.rounds + 1):
            for arm, retriever in retrievers.items():
                first = round_ * arguments.batch % len(queries[arm])
                batch = queries[arm].iloc[first : first + arguments.batch]
                started = time.perf_counter()
                retriever(batch)
                if round_ > 0:  # the first one reads files and compiles kernels
                    yield {"arm": arm, algorithm: 1000 * (time.perf_counter() - started) / len(batch)}


if __name__ == "__main__":
    main()
