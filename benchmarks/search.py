"""Search with this package's algorithms, Terrier and other engines over the same vectors: exactness, speed, recall, memory.

Usage: python benchmarks/search.py OUTPUT (--collection DIR | --vectors DIR [--collection DIR]) [--synthetic N ...]
       [--engines NAME ...] [--queries 200] [--exactness 1000]

--collection is a directory with ``docs.jsonl.gz``, ``topics.tsv`` and ``qrels.txt``, which csplade-tiny encodes. --vectors is a
directory with encoded vectors: ``docs.npz`` and ``queries.npz`` (scipy CSR), ``docnos.txt``, ``qids.txt`` and ``terms.json``;
then --collection is needed only for effectiveness and the guide's token counts. --synthetic adds collections of
``synthetic.py``, and a table of how times and memory grow with their size. Terrier and other engines are built for up to
--terrier-up-to and --engines-up-to documents. The script writes ``results.json``, ``results.md`` and plots of the tradeoff to
OUTPUT; indexes and results that exist are not built again. Engines that are not installed are listed and left out.

All systems search the same batches of queries with one thread through ``transform``, in three turns with a random order; the
shortest time counts. ``mrt`` is the median over the batches. ``processor`` is the mean processor time of all threads, which
depends little on other load. ``ratio`` is the median of processor time relative to exhaustive search on the same batch. Recall
is relative to exhaustive search and takes ties into account.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pandas as pd
from _search_indexes import add_guides, build, cost_of_build
from _search_measures import compare, exactness
from _search_report import DEPTHS, report
from _search_systems import engine_systems, own_systems
from _search_vectors import real
from scipy.sparse import csr_matrix, vstack
from synthetic import StoredVectors, SyntheticVectors

from pyterrier_csplade.vectors.matrices import EncodedVectors

# PISA and numba's threads may bring two versions of one library (TBB) into the process.
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--synthetic", type=int, nargs="*", default=[])
    parser.add_argument("--engines", nargs="*", default=["pisa", "splade-index", "bmp", "seismic"])
    parser.add_argument("--engines-up-to", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--exactness", type=int, default=1000)
    parser.add_argument("--terrier-up-to", type=int, default=100_000)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    collections: dict[str, dict[str, Any]] = {}
    if args.collection or args.vectors:
        name = (args.collection or args.vectors).name
        vectors, matrix, queries, qrels = real(args, name)
        run(name, vectors, queries, qrels, matrix, args, collections)
    for documents in args.synthetic:
        drawn = SyntheticVectors(documents)
        vectors = StoredVectors(drawn, args.output / f"synthetic-{documents}" / "vectors")
        toks = drawn.queries(max(args.queries, args.exactness if documents <= 100_000 else 0))
        queries = pd.DataFrame({"qid": [f"q{i}" for i in range(len(toks))], "query_toks": toks})
        whole = vstack([matrix for _, matrix in vectors.blocks()]).tocsr() if documents <= 100_000 else None
        run(f"synthetic-{documents}", vectors, queries, None, whole, args, collections)


def run(
    name: str, vectors: EncodedVectors, queries: pd.DataFrame, qrels: pd.DataFrame | None, matrix: csr_matrix | None,
    args: argparse.Namespace, collections: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Measure one collection, and write all results so far."""
    output = args.output / name
    index, facts = build(vectors, output, args)
    found: dict[str, Any] = {"facts": facts}
    if isinstance(vectors, StoredVectors):
        facts |= cost_of_build(len(vectors), output / "vectors")
    if matrix is not None:
        found["exactness"] = exactness(index, matrix, list(vectors.vocabulary), queries[: args.exactness])
    guides = add_guides(index, vectors, args.collection)
    systems = own_systems(index, guides)
    if len(vectors) <= args.engines_up_to:
        others, found["engines"] = engine_systems(vectors, output, args.engines)
        systems += others
    found["rows"] = [row for k in DEPTHS for row in compare(systems, queries[: args.queries], qrels, k)]
    collections[name] = found
    report(collections, args.output)


if __name__ == "__main__":
    main()
