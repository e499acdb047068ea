"""Vectors of a model for benchmarks/search.py, read from files or encoded by csplade-tiny."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
from _search_indexes import timed
from scipy.sparse import csr_matrix, load_npz, save_npz

from pyterrier_csplade.data.jsonl import read_jsonl
from pyterrier_csplade.vectors.impacts import to_vectors
from pyterrier_csplade.vectors.matrices import EncodedVectors, MatrixVectors


def real(args: argparse.Namespace, name: str) -> tuple[EncodedVectors, csr_matrix, pd.DataFrame, pd.DataFrame | None]:
    """Read vectors of a model; if there are none, encode the collection with csplade-tiny into OUTPUT."""
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
    """Encode documents and queries with csplade-tiny, and write the files that --vectors reads."""
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
