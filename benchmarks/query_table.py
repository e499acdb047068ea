"""Query tables against the full query encoder: effectiveness, cost of search, size, and time of a query.

Usage: python benchmarks/query_table.py COLLECTIONS CACHE [--names medquad covidqa cranfield] [--train medquad]
       [--timed 200] [--only-encode]

COLLECTIONS has a folder for each name with ``docs.jsonl.gz``, ``topics.tsv`` and ``qrels.txt``; those in --train also have
``topics.train.tsv``. csplade-tiny encodes documents and queries once; CACHE keeps the vectors, piece by piece, so that an
interrupted run resumes. CACHE also gets ``query_table.json`` with all figures.

Tables are filled from the training queries of a collection; for a collection without any, from those of --train, and from
titles and first sentences of its own documents. Search is exact. FLOPs is the expected number of products of a query and a
document (the sum over terms of the shares of queries and of documents that have it). Times are processor times of one thread:
warm, the median over --timed queries that all systems encode in turns; cold, a process that imports, loads and encodes one
query.

Predictions, written before the first run: binary is at least as good as inverse document frequencies of the encoded documents;
ridge with 4 entries reaches 95 % of the full encoder's nDCG@10 in domain, with a file of at most 100 kB, and two steps 99 %;
out of domain, ridge gains less than a third over binary of what it gains in domain; fewer than 8 entries are enough; a second
fit of the entries that are kept changes nDCG@10 by less than 0.005.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
from _query_vectors import Encoded
from ir_measures import R, nDCG
from scipy.sparse import csr_matrix, diags

from pyterrier_csplade import CSPLADE, QueryTable
from pyterrier_csplade.queries.filling import Filling, fill
from pyterrier_csplade.queries.table import tokens_of

MEASURES = [nDCG @ 10, R @ 100]
ENTRIES = (1, 2, 4, 8, 16)
#: Documents that the first step hands to the second.
DEPTHS = (20, 100)

_COLD = """
import sys, time
from pathlib import Path
{load}
query = {call}
import resource
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime)
"""


class Search:
    """Exact search of a collection's test queries, and its measures."""

    def __init__(self, collection: Encoded) -> None:
        self.collection = collection
        self._documents = collection.documents.astype(np.float32)
        self._by_term = self._documents.T.tocsr()
        self._qids = collection.topics("test")["qid"].tolist()
        self._qrels = collection.qrels("test")
        self._docnos = np.array(collection.docnos, dtype=object)
        self._shares = np.asarray((self._documents > 0).mean(axis=0)).ravel()

    def scores(self, queries: csr_matrix) -> csr_matrix:
        """Return the scores, [queries, documents]."""
        return (queries @ self._by_term).tocsr()

    def two_steps(self, first: csr_matrix, second: csr_matrix, depth: int) -> csr_matrix:
        """Return the scores of the second queries for the best documents of the first."""
        found = self.scores(first)
        kept = [np.sort(found.indices[s:e][best(found.data[s:e], depth)]) for s, e in zip(found.indptr, found.indptr[1:])]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in kept])])
        mask = csr_matrix((np.ones(starts[-1], dtype=np.float32), np.concatenate(kept), starts), shape=found.shape)
        return self.scores(second).multiply(mask).tocsr()

    def measures(self, scores: csr_matrix) -> dict[str, float]:
        """Return the measures of a ranking by scores."""
        parts = []
        for qid, start, end in zip(self._qids, scores.indptr, scores.indptr[1:]):
            order = best(scores.data[start:end], 1000)
            docnos, values = self._docnos[scores.indices[start:end][order]], scores.data[start:end][order]
            parts.append(pd.DataFrame({"query_id": qid, "doc_id": docnos, "score": values}))
        found = ir_measures.calc_aggregate(MEASURES, self._qrels, pd.concat(parts))
        return {str(measure): round(float(found[measure]), 4) for measure in MEASURES}

    def cost(self, queries: csr_matrix) -> dict[str, float]:
        """Return the active terms of a query, and FLOPs."""
        shares = np.asarray((queries > 0).mean(axis=0)).ravel()
        return {"terms": round(queries.nnz / queries.shape[0], 1), "FLOPs": round(float(shares @ self._shares), 2)}

    def idf(self) -> np.ndarray:
        """Return inverse document frequencies of the encoded documents, as OpenSearch has them."""
        count, frequencies = self._documents.shape[0], self._documents.getnnz(axis=0)
        return np.log(1 + (count - frequencies + 0.5) / (frequencies + 0.5))


def best(scores: np.ndarray, depth: int) -> np.ndarray:
    """Return the positions of the highest scores, the highest first; among equal ones, the first."""
    return np.lexsort((np.arange(len(scores)), -scores))[:depth]


def rows(weights: np.ndarray, expansion: csr_matrix) -> csr_matrix:
    return (diags(weights) + expansion).tocsr()


def compare(collection: Encoded, queries: dict[str, tuple[list[str], csr_matrix]], output: Path) -> list[dict[str, Any]]:
    """Measure all query sides of one collection.

    Args:
        collection: Its test queries are searched.
        queries: Sets of queries, with the full encoder's vectors, from which tables are filled.
        output: Directory for tables.
    """
    search, model, tokens = Search(collection), collection.model, tokens_of(collection.model)
    full, own = collection.queries("test"), tokens(collection.topics("test")["query"].tolist())
    found: list[dict[str, Any]] = []

    def add(system: str, vectors: csr_matrix, scores: csr_matrix | None = None, **more: Any) -> None:
        vectors = csr_matrix(vectors)
        measures = search.measures(search.scores(vectors) if scores is None else scores)
        found.append({"collection": collection.name, "system": system, **measures, **search.cost(vectors), **more})
        show(found[-1])

    add("full encoder", full)
    add("full encoder, own tokens", full.multiply(own))
    add("binary", own)
    add("idf of the encoded documents", own @ diags(search.idf()))
    for depth in DEPTHS:
        add(f"binary, top {depth} scored by the full encoder", own, search.two_steps(own, full, depth))
    for name, (texts, vectors) in queries.items():
        seen = tokens(texts)
        for filling in (Filling(kind="counts"), *(Filling(entries=entries) for entries in ENTRIES)):
            start = time.process_time()
            weights, expansion = fill(seen, vectors, filling)
            seconds = round(time.process_time() - start, 1)
            directory = output / collection.name / f"{name}-{filling.kind}-{filling.entries}"
            QueryTable.from_weights(model, weights, expansion).save(directory)
            label = f"{filling.kind}{f' {filling.entries}' if filling.kind == 'ridge' else ''}, queries of {name}"
            made = own @ rows(weights, expansion)
            more = {"kB": round((directory / "table.npz").stat().st_size / 1000), "fill s": seconds, "queries": len(texts)}
            add(label, made, **more)
            for depth in DEPTHS if filling.entries == 4 and filling.kind == "ridge" else ():
                add(f"{label}, top {depth} scored by the full encoder", made, search.two_steps(made, full, depth))
    return found


def show(row: dict[str, Any]) -> None:
    print(" | ".join(str(value) for value in row.values()), flush=True)


def warm(model: CSPLADE, table: QueryTable, texts: list[str]) -> dict[str, float]:
    """Return the median processor time of a query in milliseconds; the systems take turns."""
    systems: dict[str, Callable[[list[str]], Any]] = {"full encoder": model.encode_queries, "table": table.encode}
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for text in texts:
        for name, encode in systems.items():
            start = time.process_time()
            encode([text])
            taken[name].append(time.process_time() - start)
    return {name: round(statistics.median(times) * 1000, 3) for name, times in taken.items()}


def cold(directory: Path, text: str) -> dict[str, float]:
    """Return the processor time in seconds of a process that encodes one query, and of one that imports PyTerrier only."""
    codes = {
        "PyTerrier alone": ("import pyterrier", "None"),
        "table": (
            f"from pyterrier_csplade import QueryTable\ntable = QueryTable.load({str(directory)!r})",
            f"table.encode([{text!r}])",
        ),
        "full encoder": (
            "from pyterrier_csplade import CSPLADE\nmodel = CSPLADE.tiny()",
            f"model.encode_queries([{text!r}])",
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(3):
        for name, (load, call) in codes.items():
            code = _COLD.format(load=load, call=call)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            taken[name].append(float(done.stdout))
    return {name: round(min(times), 2) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--names", nargs="+", default=["medquad", "covidqa", "cranfield"])
    parser.add_argument("--train", nargs="+", default=["medquad"])
    parser.add_argument("--timed", type=int, default=200)
    parser.add_argument("--only-encode", action="store_true")
    args = parser.parse_args()
    model = CSPLADE.tiny()
    collections = {name: Encoded(args.collections / name, args.cache, model) for name in {*args.names, *args.train}}
    given = {
        name: (collections[name].topics("train")["query"].tolist(), collections[name].queries("train")) for name in args.train
    }
    results: dict[str, Any] = {"rows": []}
    for name in args.names:
        own = given if name not in given else {name: given[name]}
        queries = {**own, "its documents": collections[name].synthetic()}
        if args.only_encode:
            collections[name].queries("test"), collections[name].documents
            continue
        results["rows"] += compare(collections[name], queries, args.cache / "tables")
        (args.cache / "query_table.json").write_text(json.dumps(results, indent=1) + "\n")
    if args.only_encode:
        return
    directory = args.cache / "tables" / args.names[0] / f"{args.train[0]}-ridge-4"
    texts = collections[args.names[0]].topics("test")["query"].tolist()[: args.timed]
    results["warm ms"] = warm(model, QueryTable.load(directory), texts)
    results["cold s"] = cold(directory, texts[0])
    results["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(json.dumps({name: value for name, value in results.items() if name != "rows"}))
    (args.cache / "query_table.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
