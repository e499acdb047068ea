"""Search: this package's algorithms, Terrier and other engines over the same vectors: exactness, speed, recall, growth, memory.

Usage: python benchmarks/search.py OUTPUT (--collection DIR | --vectors DIR [--collection DIR]) [--synthetic N ...]
       [--engines NAME ...] [--queries 200] [--exactness 1000]

--collection holds ``docs.jsonl.gz``, ``topics.tsv`` and ``qrels.txt``; csplade-tiny encodes it. --vectors takes vectors that
were encoded before: ``docs.npz`` and ``queries.npz`` (scipy CSR), ``docnos.txt``, ``qids.txt`` and ``terms.json``; then
--collection is needed only for effectiveness and the guide's token counts. --synthetic adds collections of ``synthetic.py``,
and a table of how times and memory grow with them. Terrier and other engines are built up to 100,000 documents, unless
--engines-up-to and --terrier-up-to say otherwise. What OUTPUT holds already is not built again.

All systems search the same batches of queries in turns, through ``transform``, with one thread. Times are medians over the
batches; the ratio is the median of time / time of exhaustive search on the same batch. Processor times (of all threads of the
process) are means; a busy machine changes them little.
Recall is tie-aware, against exhaustive search. Engines that are not installed are left out, and named. OUTPUT gets
``results.json``, ``results.md`` and plots of the tradeoff.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures import calc_aggregate, nDCG
from scipy.sparse import csr_matrix, load_npz, save_npz
from synthetic import StoredVectors, SyntheticVectors, guide_of_noise, guide_of_rarity

from pyterrier_csplade import CspladeError, ImpactIndex, engines, plot_tradeoff
from pyterrier_csplade._impacts import to_vectors
from pyterrier_csplade._jsonl import read_jsonl
from pyterrier_csplade._recall import _top
from pyterrier_csplade._vectors import EncodedVectors, MatrixVectors
from pyterrier_csplade.search import POSTINGS_FILE, Postings, write_postings
from pyterrier_csplade.search._algorithm import Budget, algorithm
from pyterrier_csplade.search._guide import write_guide
from pyterrier_csplade.search._guide_sources import counts_source
from pyterrier_csplade.search._order import bisect, read_order, write_order
from pyterrier_csplade.search._retriever import PostingsRetriever

# PISA and numba's threads may bring two versions of one library (TBB) into the process.
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")

BATCH, DEPTHS = 25, (10, 1000)
#: Options of this package's algorithms: system, label, algorithm, options.
OURS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("exhaustive", "", "exhaustive", {}),
    ("MaxScore", "", "maxscore", {}),
    ("bmp, order of indexing", "1", "bmp", {"reordered": False}),
    *(("bmp", f"{alpha}", "bmp", {"alpha": alpha}) for alpha in (1.0, 0.9, 0.8, 0.7)),
    ("bmp, beta 0.7", "0.8", "bmp", {"alpha": 0.8, "beta": 0.7}),
]
GUIDED = [
    (f"{name}", {"alpha": a, "beta": b, "gamma": c})
    for name, a, b, c in (("GT", 1, 1, 0), ("GTI", 1, 1, 0.5), ("2GTI", 1, 0, 0))
]


class Arrays:
    """Posting arrays without a Terrier index beside them; stands in for one in retrievers."""

    memory = False

    def __init__(self, directory: Path) -> None:
        self.path = self.directory = directory
        self._postings = Postings(directory / POSTINGS_FILE)

    def postings(self, *, verbose: bool = False) -> Postings:
        """Return the arrays, as ``ImpactIndex.postings`` does."""
        return self._postings


def timed(function: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def directory_megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def build(vectors: EncodedVectors, output: Path, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Build postings, order, and Terrier's index where that is wanted; return the index and what it took."""
    terrier = len(vectors) <= args.terrier_up_to
    facts: dict[str, Any] = {"documents": len(vectors)}
    if terrier:
        index: Any = ImpactIndex(output / "impacts")
        if not index.built():
            facts["Terrier build s"], _ = timed(lambda: index.index_vectors(vectors, verbose=True))
        facts["Terrier MB"] = directory_megabytes(output / "impacts") - directory_megabytes_of(
            output / "impacts", "csplade_p*.bin"
        )
        facts["build s"], _ = timed(index.postings)
    else:
        (output / "arrays").mkdir(parents=True, exist_ok=True)
        if not (output / "arrays" / POSTINGS_FILE).exists():
            facts["build s"], _ = timed(lambda: write_postings(output / "arrays", vectors, verbose=True))
        index = Arrays(output / "arrays")
    postings = index.postings()
    if read_order(postings) is None:
        facts["reorder s"], order = timed(lambda: bisect(postings, verbose=True))
        write_order(postings, order)
    blocks, _ = timed(lambda: [algorithm("bmp", {"reordered": r}).prepare(postings) for r in (False, True)])
    count = len(postings.docids)
    facts |= {
        "postings": count,
        "blocks s": blocks,
        "bytes a posting": postings.file.path.stat().st_size / count,
        "with blocks": directory_megabytes_of(index.directory, "csplade_*.bin") * 1e6 / count,
    }
    return index, facts


def directory_megabytes_of(directory: Path, pattern: str) -> float:
    return sum(file.stat().st_size for file in directory.glob(pattern)) / 1e6


def own_systems(index: Any, guides: list[str]) -> list[tuple[str, str, Any]]:
    def retriever(name: str, options: dict[str, Any]) -> Any:
        return lambda k: PostingsRetriever(index, algorithm(name, options), num_results=k)

    systems = [(system, label, retriever(name, options)) for system, label, name, options in OURS]
    for guide in guides:
        systems += [(f"guided by {guide}", name, retriever("guided", {"guide": guide, **options})) for name, options in GUIDED]
    if isinstance(index, ImpactIndex):
        systems[:0] = [
            ("PyTerrier", "Retriever", lambda k: pt.terrier.Retriever(index.index_ref(), wmodel="Tf", num_results=k)),
            ("Terrier", "read in bulk", lambda k: index.retriever(num_results=k)),
        ]
    return systems


def engine_systems(
    vectors: EncodedVectors, output: Path, names: list[str]
) -> tuple[list[tuple[str, str, Any]], dict[str, Any]]:
    """Build the other engines; what cannot be built is named with its reason."""
    eight_bits = Eight(vectors)
    plans: dict[str, list[tuple[str, Any, EncodedVectors, list[tuple[str, dict[str, Any]]]]]] = {
        "pisa": [("PISA", engines.PisaEngine, vectors, [(a, {"query_algorithm": a}) for a in ("maxscore", "block_max_wand")])],
        "splade-index": [("splade-index", engines.SpladeIndexEngine, vectors, [("", {})])],
        "bmp": [
            (f"package bmp, {b}", lambda path, b=b: engines.BmpEngine(path, block_size=b, compress_range=b == 8), eight_bits,
             [(f"{a}", {"alpha": a}) for a in (1.0, 0.9, 0.8, 0.7)])
            for b in (32, 8)
        ],
        "seismic": [
            ("Seismic", engines.SeismicEngine, vectors,
             [(f"{c}, {f}", {"query_cut": c, "heap_factor": f}) for c, f in ((5, 0.7), (10, 0.7), (20, 0.8), (40, 1.0))])
        ],
        "anserini": [("Anserini", engines.AnseriniEngine, vectors, [("", {})])],
    }  # fmt: skip
    systems, facts = [], {}
    for name in names:
        for title, make, source, knobs in plans[name]:
            path = output / title.replace(", ", "-").replace(" ", "-")
            try:
                engine = make(path)
                seconds = 0.0 if path.exists() else timed(lambda: engine.index_vectors(source))[0]  # noqa: B023
                facts[title] = {"build s": seconds, "MB": directory_megabytes(path)}
            except CspladeError as error:
                facts[title] = {"left out": str(error)}
                continue
            for label, options in knobs:
                systems.append((title, label, lambda k, e=engine, o=options: e.retriever(num_results=k, **o)))
    return systems, facts


class Eight:
    """Vectors whose impacts fit into 8 bits, as the package bmp needs: scaled down if one does not."""

    def __init__(self, vectors: EncodedVectors) -> None:
        self.vectors, self.contract, self.vocabulary = vectors, vectors.contract, vectors.vocabulary
        largest = max(matrix.data.max(initial=1) for _, matrix in vectors.blocks())
        self.factor = min(1.0, 255 / largest)

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[tuple[Any, csr_matrix]]:
        """Yield docnos and scaled vectors."""
        for docnos, matrix in self.vectors.blocks():
            scaled = np.maximum(1, np.floor(matrix.data * self.factor + 0.5)).astype(np.int32)
            yield docnos, csr_matrix((scaled, matrix.indices, matrix.indptr), shape=matrix.shape)


def compare(
    systems: list[tuple[str, str, Any]], queries: pd.DataFrame, qrels: pd.DataFrame | None, k: int
) -> list[dict[str, Any]]:
    """Search all batches with all systems in turns."""
    retrievers = [make(k) for _, _, make in systems]
    batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    reference = next(i for i, (system, _, _) in enumerate(systems) if system == "exhaustive")
    seconds: list[list[float]] = [[] for _ in systems]
    processor = [0.0] * len(systems)
    results: list[list[pd.DataFrame]] = [[] for _ in systems]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="bmp keeps scores in 16 bits")
        for number, batch in enumerate([batches[0], *batches]):
            for i, retriever in enumerate(retrievers):
                before = time.process_time()
                taken, found = timed(lambda: retriever.transform(batch))  # noqa: B023
                if number:  # the first time everything is opened and compiled
                    processor[i] += time.process_time() - before
                    seconds[i].append(taken / len(batch))
                    results[i].append(found[["qid", "docno", "score"]])
    rankings = [pd.concat(found) for found in results]
    exact = {qid: _top(rows, k) for qid, rows in rankings[reference].groupby("qid")}
    order = rankings[reference].groupby("qid")["docno"].agg(list)
    rows = []
    for (system, label, _), taken, used, ranking in zip(systems, seconds, processor, rankings):
        kept = {qid: set(found["docno"]) for qid, found in ranking.groupby("qid")}
        recall = [min(len(kept.get(qid, set()) & best), n) / n for qid, (best, n) in exact.items()]
        same = ranking.groupby("qid")["docno"].agg(list).reindex(order.index)
        row = {
            "system": system, "label": label, "k": k, "mrt": 1000 * statistics.median(taken),
            "processor": 1000 * used / len(queries),
            "ratio": statistics.median(own / other for own, other in zip(taken, seconds[reference])),
            f"exact_recall@{k}": float(np.mean(recall)), "same ranking": float((same == order).mean()),
        }  # fmt: skip
        if qrels is not None:
            run = ranking.rename(columns={"qid": "query_id", "docno": "doc_id"})
            row["nDCG@10"] = calc_aggregate([nDCG @ 10], qrels[qrels["query_id"].isin(order.index)], run)[nDCG @ 10]
        rows.append(row)
    return rows


def exactness(index: Any, matrix: csr_matrix, terms: list[str], queries: pd.DataFrame) -> dict[str, Any]:
    """Compare order and scores of the top 1000 with scipy's product; sums are added up in other orders, so scores to 1e-12."""
    columns = {term: column for column, term in enumerate(terms)}
    systems = {name: algorithm(name, {}).prepare(index.postings()) for name in ("exhaustive", "maxscore", "bmp")}
    found = dict.fromkeys(systems, 0)
    documents = matrix.astype(np.float64).tocsr()
    for toks in queries["query_toks"]:
        weights = np.zeros(len(terms))
        weights[[columns[t] for t in toks if t in columns]] = [w for t, w in toks.items() if t in columns]
        scores = documents @ weights
        best = np.lexsort((np.arange(len(scores)), -scores))[:1000]
        best = best[scores[best] > 0]
        for name, searcher in systems.items():
            hits = searcher(index.postings().query(toks), 1000, Budget())
            close = len(hits.docids) == len(best) and np.allclose(hits.scores, scores[best], rtol=1e-12, atol=0)
            # Where two sums agree to the last digits, scipy may have them the other way round.
            found[name] += bool(close and np.allclose(scores[hits.docids], scores[best], rtol=1e-12, atol=0))
    return {"queries": len(queries), "top 1000 as scipy's": found}


def real(args: argparse.Namespace, name: str) -> tuple[EncodedVectors, csr_matrix, pd.DataFrame, pd.DataFrame | None]:
    """Vectors of a model: read, or encoded by csplade-tiny, which OUTPUT then keeps."""
    qrels, directory = None, args.vectors or args.output / name / "vectors"
    if args.collection is not None:
        names = ["query_id", "_", "doc_id", "relevance"]
        qrels = pd.read_csv(args.collection / "qrels.txt", sep=r"\s+", names=names, dtype={"query_id": str, "doc_id": str})
    if not (directory / "terms.json").exists():
        encode(args.collection, directory)
    docnos, qids = ((directory / f"{file}.txt").read_text().splitlines() for file in ("docnos", "qids"))
    terms = json.loads((directory / "terms.json").read_text())
    matrix, queries = load_npz(directory / "docs.npz").tocsr(), load_npz(directory / "queries.npz").tocsr()
    frame = pd.DataFrame({"qid": qids, "query_toks": [dict(toks) for toks in to_vectors(queries, terms)]})
    return MatrixVectors(docnos, matrix, terms), matrix, frame, qrels


def encode(collection: Path, directory: Path) -> None:
    """Encode documents and queries with csplade-tiny, and write what --vectors reads."""
    from pyterrier_csplade import CSPLADE, Quantizer

    csplade = CSPLADE.tiny(verbose=True)
    rows = [row for _, row in read_jsonl(collection / "docs.jsonl.gz")]
    topics = pd.read_csv(collection / "topics.tsv", sep="\t", names=["qid", "query"], dtype=str, quoting=3)
    directory.mkdir(parents=True, exist_ok=True)
    taken, documents = timed(lambda: csplade.encode_docs([f"{row.get('title', '')} {row['text']}" for row in rows]))
    save_npz(directory / "docs.npz", Quantizer()(documents))
    save_npz(directory / "queries.npz", csplade.encode_queries(topics["query"].tolist()))
    (directory / "docnos.txt").write_text("".join(f"{row['docno']}\n" for row in rows))
    (directory / "qids.txt").write_text("".join(f"{qid}\n" for qid in topics["qid"]))
    (directory / "encoding.json").write_text(json.dumps({"documents": len(rows), "s": taken}) + "\n")
    (directory / "terms.json").write_text(json.dumps(list(csplade.vocabulary)) + "\n")


def add_guide(index: Any, collection: Path) -> None:
    """Add BM25 over the model's own tokens."""
    from pyterrier_csplade import CSPLADE

    tokenizer = CSPLADE.tiny().backbone.tokenizer
    documents = (
        {"docno": row["docno"], "toks_tf": Counter(tokenizer.tokenize(f"{row.get('title', '')} {row['text']}"))}
        for _, row in read_jsonl(collection / "docs.jsonl.gz")
    )
    write_guide(index.postings(), index.directory, "bm25", counts_source(index.postings(), documents, 0.9, 0.4))


#: Builds the postings of a synthetic collection; prints seconds, and the largest memory that the process has for itself, in MB.
BUILD = """
import sys, tempfile, threading, time
from pathlib import Path
from synthetic import StoredVectors, SyntheticVectors
from pyterrier_csplade.search import write_postings

def own():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["RssAnon"].split()[0]) / 1e3

def watch():
    while True:
        peaks[0] = max(peaks[0], own())
        time.sleep(0.02)

vectors = StoredVectors(SyntheticVectors(int(sys.argv[1])), Path(sys.argv[2]))
next(vectors.blocks())
before = own()
peaks = [before]
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter(), time.process_time()
with tempfile.TemporaryDirectory() as directory:
    write_postings(Path(directory), vectors)
print(time.perf_counter() - start[0], time.process_time() - start[1], peaks[0], before)
"""


def cost_of_build(documents: int, vectors: Path) -> dict[str, float]:
    """Build posting arrays of a synthetic collection in a process of its own (Linux): its time and the memory it needs."""
    command = [sys.executable, "-c", BUILD, str(documents), str(vectors.resolve())]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    names = ("build s", "build processor s", "peak MB of the build", "MB before")
    return dict(zip(names, map(float, done.stdout.split())))


def growth(collections: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a table: what synthetic collections of several sizes take."""
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
        whole = next(iter([m for _, m in vectors.blocks()])) if documents <= 10_000 else None
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
    guides: list[str] = []
    if isinstance(vectors, StoredVectors):
        guides = ["noise", "rarity"]
        for guide, source in zip(guides, (guide_of_noise(index.postings()), guide_of_rarity(index.postings()))):
            write_guide(index.postings(), index.directory, guide, source)
    elif args.collection is not None:
        guides = ["bm25"]
        add_guide(index, args.collection)
    systems = own_systems(index, guides)
    if len(vectors) <= args.engines_up_to:
        others, found["engines"] = engine_systems(vectors, output, args.engines)
        systems += others
    found["rows"] = [row for k in DEPTHS for row in compare(systems, queries[: args.queries], qrels, k)]
    collections[name] = found
    report(collections, args.output)


if __name__ == "__main__":
    main()
