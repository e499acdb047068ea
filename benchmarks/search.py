"""Search: this package's algorithms, Terrier and other engines over the same vectors: exactness, speed, recall, growth, memory.

Usage: python benchmarks/search.py OUTPUT (--collection DIR | --vectors DIR [--collection DIR]) [--synthetic N ...]
       [--engines NAME ...] [--queries 200] [--exactness 1000]

--collection holds ``docs.jsonl.gz``, ``topics.tsv`` and ``qrels.txt``; csplade-tiny encodes it. --vectors takes vectors that
were encoded before: ``docs.npz`` and ``queries.npz`` (scipy CSR), ``docnos.txt``, ``qids.txt`` and ``terms.json``; then
--collection is needed only for effectiveness and the guide's token counts. --synthetic adds collections of ``synthetic.py``,
and a table of how times and memory grow with them. Terrier and other engines are built up to 100,000 documents, unless
--engines-up-to and --terrier-up-to say otherwise. What OUTPUT holds already is not built again.

All systems search the same batches of queries in turns, three times, through ``transform``, with one thread, in an order
that is drawn for each turn; the least time of the three counts. ``mrt`` is the median over the batches; ``processor`` the mean
of the processor times (of all threads of the process), which a busy machine changes little; ``ratio`` the median of processor
time / that of exhaustive search on the same batch.
Recall is tie-aware, against exhaustive search. Engines that are not installed are left out, and named. OUTPUT gets
``results.json``, ``results.md`` and plots of the tradeoff.
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
    """Measure one collection, and write down all that was measured so far."""
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
