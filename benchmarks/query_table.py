"""Query tables against the full query encoder: effectiveness, cost of search, size, and time of a query.

Usage: python benchmarks/query_table.py COLLECTIONS CACHE [--names medquad openstax covidqa cranfield] [--train medquad]
       [--model csplade-tiny] [--dtype auto] [--timed 200] [--only-encode] [--only-times] [--sample N] [--documents N]
       [--distil STEPS] [--shallow STEPS]

COLLECTIONS contains a folder for each name with ``docs.jsonl.gz``, ``topics.tsv`` and ``qrels.txt``; the folders of --train
also contain ``topics.train.tsv``. The model encodes documents and queries once. The vectors are kept in CACHE, piece by
piece, so that an interrupted run resumes: use a CACHE for each model. CACHE also contains ``query_table.json`` with all
figures; a run with some collections keeps the figures of the others.

Tables are filled from the training queries of a collection. For a collection without training queries, they are filled from the
training queries of --train, and from titles and first sentences of its own documents. Search is exact. FLOPs is the expected
number of products of a query and a document (the sum over terms of the share of queries times the share of documents that have
the term). Times are processor times of one thread. Warm times are the median over --timed queries that all systems encode in
turns. Cold times are the shortest of five processes that import, load and encode one query, in turns. A query encoder of fewer
layers is measured as an early exit, and after --shallow steps of ``distil-query``; --distil makes a table from the input
embeddings.

Predictions, written before the first run: binary is at least as good as inverse document frequencies of the encoded documents;
ridge with 4 entries reaches 95 % of the full encoder's nDCG@10 in domain, with a file of at most 100 kB, and two steps 99 %;
out of domain, ridge gains less than a third over binary of what it gains in domain; more than 8
entries do not help. Written before the first run of these arms: distilled weights are within 0.01 of the mean weights
("counts"); early exits are below binary; the first and the last layer, distilled for 1,000 steps, are above ridge with 8
entries out of domain, and below it in domain; a cold table takes less than 0.3 s without PyTerrier, and a warm one less than
1 ms.
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

from pyterrier_csplade import CSPLADE, QueryTable, TableEncoder
from pyterrier_csplade.queries.filling import Filling, fill
from pyterrier_csplade.queries.table import tokens_of
from pyterrier_csplade.training import DistilQueryConfig, distil_query
from pyterrier_csplade.training.table_distillation import distil_weights
from pyterrier_csplade.vectors.impacts import top_k

MEASURES = [nDCG @ 10, R @ 100]
ENTRIES = (1, 2, 4, 8, 16)
#: Number of documents that the first step passes to the second.
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
        qrels = collection.qrels("test")
        self._qrels = qrels[qrels["query_id"].isin(self._qids)]
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
            order = best(scores.data[start:end], 100)
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
    """Return the positions of the highest scores, in descending order; equal scores keep their order."""
    return np.lexsort((np.arange(len(scores)), -scores))[:depth]


def rows(weights: np.ndarray, expansion: csr_matrix) -> csr_matrix:
    return (diags(weights) + expansion).tocsr()


def compare(collection: Encoded, queries: dict[str, tuple[list[str], csr_matrix]], output: Path) -> list[dict[str, Any]]:
    """Measure all query encoders on one collection.

    Args:
        collection: The collection whose test queries are searched.
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
        directory = output / f"queries of {name}"
        for kind in ("counts", "ridge"):
            weights, every, seconds = filled(kind, tokens(texts), vectors, directory)
            for entries in ENTRIES if kind == "ridge" else (0,):
                expansion = top_k(every, entries) if entries else every
                table = QueryTable.from_weights(model, weights, expansion)
                table.save(directory / f"{kind}-{entries}")
                size = (directory / f"{kind}-{entries}" / "table.npz").stat().st_size
                more = {"kB": round(size / 1000), "fill s": seconds, "queries": len(texts)}
                made, label = own @ rows(weights, expansion), f"{kind}{f' {entries}' if entries else ''}, queries of {name}"
                add(label, made, **more)
                for depth in DEPTHS if entries == 4 else ():
                    add(f"{label}, top {depth} scored by the full encoder", made, search.two_steps(made, full, depth))
    return found


def distilled(
    collection: Encoded, queries: dict[str, tuple[list[str], csr_matrix]], output: Path, steps: int
) -> list[dict[str, Any]]:
    """Measure tables that are distilled from the model's input embeddings."""
    search, model, tokens, found = Search(collection), collection.model, tokens_of(collection.model), []
    own = tokens(collection.topics("test")["query"].tolist())
    embeddings = model.backbone.model.get_input_embeddings().weight.detach()[model.backbone.columns].float()
    for name, (texts, vectors) in queries.items():
        path = output / f"queries of {name}" / f"distil-{steps}-of-{len(texts)}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, distil_weights(tokens(texts), vectors, embeddings, steps=steps))
        made = own @ diags(np.load(path))
        measures = {**search.measures(search.scores(made)), **search.cost(made)}
        found.append(
            {"collection": collection.name, "system": f"distilled, queries of {name}", **measures, "queries": len(texts)}
        )
        show(found[-1])
    return found


def fewer_layers(collection: Encoded, train: Encoded, output: Path, steps: int) -> list[dict[str, Any]]:
    """Measure query encoders of fewer layers: as an early exit, and distilled on another collection's queries."""
    search, model, found = Search(collection), collection.model, []
    texts = collection.topics("test")["query"].tolist()
    last = model.backbone.model.config.num_hidden_layers - 1
    for layers in ([0], [0, last]):
        name = f"layers {layers}"
        systems = [(f"{name}, early exit", model.shallow(layers))]
        if steps:
            directory = output / f"{name}-{steps} of {train.name}"
            if not directory.exists():
                topics = output / f"{train.name}.tsv"
                train.topics("train").to_csv(topics, sep="\t", header=False, index=False)
                config = DistilQueryConfig(
                    model=str(model.model), layers=layers, queries=str(topics), output=str(directory), steps=steps
                )
                distil_query(config)
            systems.append((f"{name}, {steps:,} steps on queries of {train.name}", CSPLADE(directory)))
        for system, encoder in systems:
            made = encoder.encode_queries(texts)
            measures = {**search.measures(search.scores(made)), **search.cost(made)}
            found.append({"collection": collection.name, "system": system, **measures})
            show(found[-1])
    return found


def filled(kind: Any, seen: csr_matrix, vectors: csr_matrix, directory: Path) -> tuple[np.ndarray, csr_matrix, float]:
    """Fill a table, or read an earlier one. Return weights, expansion with the most entries, and processor time in s."""
    path = directory / f"{kind}-of-{seen.shape[0]}.npz"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        weights, expansion = fill(seen, vectors, Filling(kind=kind, entries=max(ENTRIES)))
        taken = time.process_time() - start
        parts = {"data": expansion.data, "indices": expansion.indices, "indptr": expansion.indptr}
        np.savez(path, weights=weights, taken=taken, **parts)
    with np.load(path) as kept:
        size = len(kept["weights"])
        expansion = csr_matrix((kept["data"], kept["indices"], kept["indptr"]), shape=(size, size))
        return kept["weights"], expansion, round(float(kept["taken"]), 1)


def show(row: dict[str, Any]) -> None:
    print(" | ".join(str(value) for value in row.values()), flush=True)


def warm(model: CSPLADE, table: TableEncoder, texts: list[str]) -> dict[str, float]:
    """Return the median processor time of a query in milliseconds; the systems take turns."""
    systems: dict[str, Callable[[list[str]], Any]] = {"full encoder": model.encode_queries, "table": table.encode}
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for text in texts:
        for name, encode in systems.items():
            start = time.process_time()
            encode([text])
            taken[name].append(time.process_time() - start)
    return {name: round(statistics.median(times) * 1000, 3) for name, times in taken.items()}


def cold(model: str, directory: Path, text: str) -> dict[str, float]:
    """Return the processor time in seconds of a process that encodes one query, and of processes that only import libraries."""
    codes = {
        "NumPy and SciPy alone": ("import numpy, scipy.sparse", "None"),
        "PyTerrier alone": ("import pyterrier", "None"),
        "table without PyTerrier": (
            f"from pyterrier_csplade import TableEncoder\ntable = TableEncoder.load({str(directory)!r})",
            f"table.encode([{text!r}])",
        ),
        "table": (
            f"from pyterrier_csplade import QueryTable\ntable = QueryTable.load({str(directory)!r})",
            f"table.encode([{text!r}])",
        ),
        "full encoder": (
            f"from pyterrier_csplade import CSPLADE\nmodel = CSPLADE({model!r})",
            f"model.encode_queries([{text!r}])",
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(5):
        for name, (load, call) in codes.items():
            code = _COLD.format(load=load, call=call)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            taken[name].append(float(done.stdout))
    return {name: round(min(times), 2) for name, times in taken.items()}


def sample(texts: list[str], vectors: csr_matrix, size: int | None) -> tuple[list[str], csr_matrix]:
    """Draw queries at random."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(texts))[:size])
    return [texts[place] for place in drawn], vectors[drawn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--names", nargs="+", default=["medquad", "openstax", "covidqa", "cranfield"])
    parser.add_argument("--train", nargs="+", default=["medquad"])
    parser.add_argument("--model", default="csplade-tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--timed", type=int, default=200)
    parser.add_argument("--only-encode", action="store_true")
    parser.add_argument("--only-times", action="store_true", help="measure times only, with tables of an earlier run")
    parser.add_argument("--sample", type=int, help="fill tables from as many training queries, drawn at random")
    parser.add_argument("--documents", type=int, help="use the first documents, and the queries that are judged on them")
    parser.add_argument("--distil", type=int, default=0, help="steps of a table from the input embeddings; none by default")
    parser.add_argument("--shallow", type=int, default=0, help="steps of query encoders of fewer layers")
    args = parser.parse_args()
    model = CSPLADE(args.model, dtype=args.dtype)
    collections = {
        name: Encoded(args.collections / name, args.cache, model, args.documents) for name in {*args.names, *args.train}
    }
    results = args.cache / "query_table.json"
    kept: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {"rows": []}
    if not args.only_times:
        given = {name: sample(*trained(collections[name]), args.sample) for name in args.train}
        for name in args.names:
            collection = collections[name]
            queries = {name: given[name]} if name in given else {**given, f"documents of {name}": collection.suggested()}
            if args.only_encode:
                collection.queries("test"), collection.documents
                continue
            rows = compare(collection, queries, args.cache / "tables")
            if args.distil:
                rows += distilled(collection, queries, args.cache / "tables", args.distil)
            rows += fewer_layers(collection, collections[args.train[0]], args.cache / "tables", args.shallow)
            for row in rows:
                row["documents"] = len(collection.docnos)
            kept["rows"] = [row for row in kept["rows"] if row["collection"] != name] + rows
            results.write_text(json.dumps(kept, indent=1) + "\n")
    if args.only_encode:
        return
    directory = args.cache / "tables" / f"queries of {args.train[0]}" / "ridge-4"
    texts = collections[args.names[0]].topics("test")["query"].tolist()[: args.timed]
    kept["warm ms"] = warm(model, TableEncoder.load(directory), texts)
    kept["cold s"] = cold(str(model.model), directory, texts[0])
    kept["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(json.dumps({name: value for name, value in kept.items() if name != "rows"}))
    results.write_text(json.dumps(kept, indent=1) + "\n")


def trained(collection: Encoded) -> tuple[list[str], csr_matrix]:
    """Return the training queries, and the full encoder's vectors of them."""
    return collection.topics("train")["query"].tolist(), collection.queries("train")


if __name__ == "__main__":
    main()
