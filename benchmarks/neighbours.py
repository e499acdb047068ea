"""Compares scores and measures of other tools with the results of this package, and prints the table of the documentation.

Usage: python benchmarks/neighbours.py [--documents N] [--queries N] [--output FILE]

The documents are docstrings of Python's standard library, the queries are their summary lines, and the model is csplade-tiny.
The exit status is 1 if a tool differs by more than the rounding of its numbers. Tools that are not installed are left out, with
a message.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade import CSPLADE, ImpactIndex, export_sentence_transformers
from pyterrier_csplade.engines import export_ciff, export_json_vectors, export_lsr_benchmark

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

#: Largest relative difference: numbers of double and of single precision, and sums of single precision in another order.
SAME, SINGLE, SUMS = 1e-12, 1e-6, 1e-4

Vectors = Sequence[Mapping[str, float]]


@dataclass
class Row:
    """A row of the table.

    Attributes:
        tool: Name of the tool.
        reads: The data that it reads, and their source.
        compared: The reference for its numbers.
        difference: Largest difference, as a share of the largest number.
        limit: Largest difference that rounding explains.
    """

    tool: str
    reads: str
    compared: str
    difference: float
    limit: float


class Experiment:
    """A collection with its vectors, and the scores that every tool must find."""

    def __init__(self, documents: int, queries: int, directory: Path) -> None:
        self.directory = directory
        dataset = pt.get_dataset("csplade:python-docs")
        self.corpus = pd.DataFrame(islice(dataset.get_corpus_iter(verbose=False), documents))
        topics, judged = dataset.get_topics(), set(self.corpus["docno"])
        self.topics = topics[topics["qid"].isin(judged)].head(queries).reset_index(drop=True)
        self.qrels = dataset.get_qrels()
        self.qrels = self.qrels[self.qrels["qid"].isin(set(self.topics["qid"]))].reset_index(drop=True)
        self.csplade = CSPLADE.tiny()
        self.encoded = self.csplade.doc_encoder()(self.corpus)
        self.query_toks = self.csplade.query_encoder()(self.topics)

    @property
    def documents(self) -> Iterator[dict[str, Any]]:
        """The documents with their impacts."""
        return iter(self.encoded[["docno", "toks"]].to_dict("records"))

    @cached_property
    def impacts(self) -> np.ndarray:
        """Scores [queries, documents]: dot products of query weights and impacts."""
        return dots(list(self.query_toks["query_toks"]), list(self.encoded["toks"]))

    @cached_property
    def weights(self) -> np.ndarray:
        """Scores [queries, documents]: dot products of weights that were not quantised."""
        queries, documents = (
            encode(list(texts)).astype(np.float64)
            for encode, texts in (
                (self.csplade.encode_queries, self.topics["query"]),
                (self.csplade.encode_docs, self.corpus["text"]),
            )
        )
        return np.asarray((queries @ documents.T).todense())

    @cached_property
    def index(self) -> ImpactIndex:
        """The Terrier index of the impacts."""
        index = ImpactIndex(self.directory / "index")
        index.index(self.documents)
        return index

    @cached_property
    def run(self) -> pd.DataFrame:
        """A ranking of every query."""
        return self.index.retriever(algorithm="exhaustive")(self.query_toks)

    def scores(self, found: Mapping[str, Mapping[str, float]]) -> np.ndarray:
        """Return scores [queries, documents] of a dict of qid to docno to score; 0 where there is none."""
        return np.array([[found[qid].get(docno, 0.0) for docno in self.corpus["docno"]] for qid in self.topics["qid"]])


def dots(queries: Vectors, documents: Vectors) -> np.ndarray:
    """Return the dot products of dictionaries, [queries, documents]."""
    return np.array([[sum(w * doc.get(term, 0) for term, w in query.items()) for doc in documents] for query in queries])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, as a share of the largest number."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def search(experiment: Experiment, algorithm: str) -> float:
    """Return the difference of an algorithm of this package."""
    retriever = experiment.index.retriever(algorithm=algorithm, num_results=len(experiment.corpus))
    results = retriever(experiment.query_toks)
    found = {qid: dict(zip(rows["docno"], rows["score"])) for qid, rows in results.groupby("qid")}
    return difference(experiment.scores({qid: found.get(qid, {}) for qid in experiment.topics["qid"]}), experiment.impacts)


def terrier(experiment: Experiment) -> Row:
    """Search the Terrier index with Terrier."""
    return Row("Terrier", "``ImpactIndex``", "impacts", search(experiment, "terrier"), SINGLE)


def arrays(experiment: Experiment) -> Row:
    """Search the arrays of postings."""
    return Row("this package, exhaustive", "``ImpactIndex``", "impacts", search(experiment, "exhaustive"), SINGLE)


def maxscore(experiment: Experiment) -> Row:
    """Search with dynamic pruning."""
    import numba  # noqa: F401

    return Row("this package, MaxScore", "``ImpactIndex``", "impacts", search(experiment, "maxscore"), SINGLE)


def block_max(experiment: Experiment) -> Row:
    """Search with block-max pruning."""
    import numba  # noqa: F401

    return Row("this package, BMP", "``ImpactIndex``", "impacts", search(experiment, "bmp"), SINGLE)


def ciff(experiment: Experiment) -> Row:
    """Read the Common Index File Format with pyterrier-ciff."""
    from pyterrier_ciff import CiffIndex

    path = experiment.directory / "vectors.ciff"
    export_ciff(experiment.documents, path)
    vectors: list[dict[str, float]] = [{} for _ in range(len(experiment.corpus))]
    for record in CiffIndex(path):
        if hasattr(record, "postings"):
            for posting, docid in zip(record.postings, accumulate(posting.docid for posting in record.postings)):
                vectors[docid][record.term] = posting.tf
    found = dots(list(experiment.query_toks["query_toks"]), vectors)
    return Row("pyterrier-ciff", "CIFF, from ``export_ciff``", "impacts", difference(found, experiment.impacts), SAME)


def json_vectors(experiment: Experiment) -> Row:
    """Read Anserini's JsonVectorCollection as JSON."""
    path = experiment.directory / "vectors.jsonl"
    export_json_vectors(experiment.documents, path)
    vectors = [json.loads(line)["vector"] for line in path.read_text(encoding="utf-8").splitlines()]
    found = dots(list(experiment.query_toks["query_toks"]), vectors)
    reads = "JsonVectorCollection, from ``export_json_vectors``"
    return Row("Anserini's format", reads, "impacts", difference(found, experiment.impacts), SAME)


def lsr_benchmark(experiment: Experiment) -> Row:
    """Read the directory of embeddings with lsr-benchmark."""
    from lsr_benchmark.irds import embeddings

    path = experiment.directory / "lsr"
    export_lsr_benchmark(experiment.documents, experiment.query_toks, path)
    sides = [
        {str(name): dict(zip(terms, map(float, values))) for name, terms, values in embeddings("any", str(path), side)}
        for side in ("query", "doc")
    ]
    found = dots([sides[0][qid] for qid in experiment.topics["qid"]], [sides[1][docno] for docno in experiment.corpus["docno"]])
    reads = "embeddings, from ``export_lsr_benchmark``"
    return Row("lsr-benchmark", reads, "impacts", difference(found, experiment.impacts), SINGLE)


def sentence_transformers(experiment: Experiment) -> Row:
    """Encode and score with sentence-transformers."""
    from sentence_transformers import SparseEncoder

    path = experiment.directory / "sentence-transformers"
    export_sentence_transformers(experiment.csplade, path)
    encoder = SparseEncoder(str(path), device="cpu")
    queries = encoder.encode_query(list(experiment.topics["query"]))
    documents = encoder.encode_document(list(experiment.corpus["text"]))
    found = encoder.similarity(queries, documents).to_dense().numpy().astype(np.float64)
    reads = "the model, from ``export_sentence_transformers``"
    return Row("sentence-transformers", reads, "weights", difference(found, experiment.weights), SUMS)


def mteb(experiment: Experiment) -> Row:
    """Search as ``mteb.evaluate`` does."""
    from datasets import Dataset
    from mteb_model import CspladeSearch

    model = CspladeSearch(experiment.csplade, "csplade-tiny")
    model.index(Dataset.from_dict({"id": list(experiment.corpus["docno"]), "text": list(experiment.corpus["text"])}))
    queries = Dataset.from_dict({"id": list(experiment.topics["qid"]), "text": list(experiment.topics["query"])})
    found = experiment.scores(model.search(queries, top_k=len(experiment.corpus)))
    return Row("MTEB", "``examples/mteb_model.py``", "weights", difference(found, experiment.weights), SUMS)


def measured(experiment: Experiment) -> np.ndarray:
    """Return nDCG@10, the reciprocal rank and average precision, as ``pt.Experiment`` computes them."""
    names = ["ndcg_cut_10", "recip_rank", "map"]
    table = pt.Experiment([experiment.run], experiment.topics, experiment.qrels, names)
    return table[names].to_numpy(dtype=float)[0]


def measures(experiment: Experiment) -> Row:
    """Measure a run with ir_measures."""
    names = {"qid": "query_id", "docno": "doc_id", "label": "relevance"}
    wanted = [ir_measures.nDCG @ 10, ir_measures.RR, ir_measures.AP]
    values = ir_measures.calc_aggregate(wanted, experiment.qrels.rename(columns=names), experiment.run.rename(columns=names))
    found = np.array([values[measure] for measure in wanted])
    return Row("ir_measures", "results of a pipeline", "measures", difference(found, measured(experiment)), SAME)


def ranx(experiment: Experiment) -> Row:
    """Measure a file of results with ranx."""
    from ranx import Qrels, Run, evaluate

    path = experiment.directory / "csplade.run"
    pt.io.write_results(experiment.run, str(path))
    strings = experiment.qrels.astype({"qid": object, "docno": object})  # ranx refuses the string type of pandas 3
    judged = Qrels.from_df(strings, q_id_col="qid", doc_id_col="docno", score_col="label")
    values = evaluate(judged, Run.from_file(str(path), kind="trec"), ["ndcg@10", "mrr", "map"])
    found = np.array([values[name] for name in ("ndcg@10", "mrr", "map")])
    return Row("ranx", "a run in TREC's format", "measures", difference(found, measured(experiment)), SAME)


def shown(row: Row) -> tuple[str, ...]:
    """Return the cells of a row."""
    return row.tool, row.reads, row.compared, f"{row.difference:.1e}" if row.difference else "0", f"{row.limit:.0e}"


TOOLS: list[Callable[[Experiment], Row]] = [
    terrier, arrays, maxscore, block_max, ciff, json_vectors, lsr_benchmark, sentence_transformers, mteb, measures, ranx,
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--queries", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="file for the table, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        experiment = Experiment(arguments.documents, arguments.queries, Path(directory))
        rows = []
        for tool in TOOLS:
            try:
                rows.append(tool(experiment))
            except ImportError as error:
                print(f"{tool.__name__}: left out ({error})", file=sys.stderr)
    print(f"{len(experiment.corpus)} documents, {len(experiment.topics)} queries")
    heads = ("Tool", "Reads", "Compared with", "Largest difference", "Rounding explains")
    for cells in (heads, *map(shown, rows)):
        print("\n".join(f"   {'* -' if first else '  -'} {cell}" for first, cell in zip((True, *[False] * len(cells)), cells)))
    if arguments.output:
        arguments.output.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    if wrong := [row.tool for row in rows if not row.difference <= row.limit]:
        raise SystemExit(f"different: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
