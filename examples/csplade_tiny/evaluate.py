"""Evaluate a CSPLADE model against BM25 and DPH, as in its model card.

Usage: python evaluate.py MODEL COLLECTIONS OUTPUT NAME[:SPLIT] ...

MODEL is a directory, "csplade-tiny" or "csplade-small". COLLECTIONS contains a folder for each NAME with ``docs.jsonl.gz``,
``topics.tsv`` and ``qrels.txt``, or ``topics.SPLIT.tsv`` and ``qrels.SPLIT.txt``. The script prints a Markdown table for each
collection, and writes the indexes and ``results.json`` to OUTPUT.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
from ir_measures import RR, R, nDCG

from pyterrier_csplade import CSPLADE, ImpactIndex, PruneToks, hybrid
from pyterrier_csplade.cli.demo import directory_size
from pyterrier_csplade.data import read_jsonl
from pyterrier_csplade.training.rows import passage_text

MEASURES = [nDCG @ 10, RR @ 10, R @ 100]
#: Maximum numbers of terms per document, in addition to no limit.
CAPS = (100, 200)


def documents(folder: Path) -> Iterator[dict[str, str]]:
    for _, row in read_jsonl(folder / "docs.jsonl.gz"):
        yield {"docno": row["docno"], "text": passage_text(row)}


def topics_and_qrels(folder: Path, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    suffix = f".{split}" if split else ""
    topics = pd.read_csv(folder / f"topics{suffix}.tsv", sep="\t", names=["qid", "query"], dtype=str, quoting=3)
    qrels = pd.read_csv(folder / f"qrels{suffix}.txt", sep=r"\s+", names=["qid", "_", "docno", "label"], dtype=str)
    return topics, qrels.astype({"label": int})[["qid", "docno", "label"]]


def without_signs() -> pt.Transformer:
    """Remove punctuation from queries, because Terrier's query language would interpret it."""
    return pt.apply.query(lambda row: re.sub(r"[^\w\s]", " ", row["query"]))


def evaluate(model: CSPLADE, name: str, folder: Path, split: str, output: Path) -> dict[str, Any]:
    topics, qrels = topics_and_qrels(folder, split)
    classic = output / folder.name / "terrier"
    impacts = {top: ImpactIndex(output / folder.name / f"impacts-{top or 'all'}") for top in (None, *CAPS)}
    if not classic.exists():
        pt.IterDictIndexer(str(classic), meta={"docno": 100}).index(documents(folder))
    if not all(index.built() for index in impacts.values()):
        vectors = list(model.doc_encoder(verbose=True).transform_iter(documents(folder)))
        for top, index in impacts.items():
            (PruneToks(top_k=top) >> index if top else index).index(vectors)
    bm25, dph = (without_signs() >> pt.terrier.Retriever(str(classic), wmodel=w) for w in ("BM25", "DPH"))
    whole, *capped = (model.query_encoder() >> index.retriever(num_results=1000) for index in impacts.values())
    systems = {"BM25": bm25, "DPH": dph, name: whole}
    systems |= {f"{name}, top {top}": system for top, system in zip(CAPS, capped)}
    systems |= {f"{method} of BM25 and {name}": hybrid(bm25, whole, method=method) for method in ("rrf", "minmax")}
    table = pt.Experiment(systems, topics, qrels, MEASURES, baseline="BM25", correction="holm")
    queries = model.encode_queries(topics["query"].tolist())
    postings = pt.IndexFactory.of(str(impacts[None].path)).getCollectionStatistics().getNumberOfPointers()
    sizes = {index.directory.name: directory_size(index.directory) for index in impacts.values()}
    return {
        "collection": folder.name,
        "split": split or "test",
        "documents": len(impacts[None]),
        "queries": len(topics),
        "nnz_query": queries.nnz / queries.shape[0],
        "nnz_document": postings / len(impacts[None]),
        "index_mb": {"terrier": directory_size(classic), **sizes},
        "results": table.to_dict("records"),
    }


def main(model: str, collections: Path, output: Path, names: list[str]) -> None:
    packaged = {"csplade-tiny": CSPLADE.tiny, "csplade-small": CSPLADE.small}
    csplade = packaged[model](dtype="bfloat16") if model in packaged else CSPLADE(model, dtype="bfloat16")
    output.mkdir(parents=True, exist_ok=True)
    found = []
    for name in names:
        collection, _, split = name.partition(":")
        found.append(evaluate(csplade, Path(model).name, collections / collection, split, output))
        (output / "results.json").write_text(json.dumps(found, indent=1, default=float) + "\n")
        result = found[-1]
        figures = pd.DataFrame(result["results"])[["name", *map(str, MEASURES)]]
        facts = {key: value for key, value in result.items() if key != "results"}
        print(f"\n{facts}\n\n{figures.to_markdown(index=False, floatfmt='.4f')}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).absolute(), sys.argv[4:])  # Terrier needs an absolute path
