"""Mine negatives and teacher scores for the last contrastive run of csplade-tiny.

Usage: python mine.py MODEL COLLECTIONS OUTPUT

COLLECTIONS is the same as for ``prepare.py``; only training queries are used. OUTPUT gets ``distil.jsonl.gz``, the mined rows
of three collections, and the indexes. The teacher is the sum of BM25 and MODEL, each divided by the best score of a query. It
ranks better than either, since BM25 adds evidence from rare words and term frequencies.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyterrier as pt
from evaluate import documents, without_signs
from prepare import SEED, package_rows, write_jsonl

from pyterrier_csplade import CSPLADE, ImpactIndex
from pyterrier_csplade.data import read_jsonl
from pyterrier_csplade.training import mine_negatives

#: Number of results of the teacher. Relevant passages beyond them are left out.
RESULTS = 1000
#: Number of first results from which negatives are drawn.
DEPTH = 40
NEGATIVES = 15
#: Maximum number of queries of each kind.
QUERIES = {"openstax": 6500, "openstax-long": 3000, "medquad": 4500, "packages": 5000}


@dataclass(frozen=True)
class Collection:
    """Documents (docno, text), queries (qid, query) and their relevant documents (qid, docno, label)."""

    documents: list[dict[str, str]]
    topics: pd.DataFrame
    qrels: pd.DataFrame


def fuse(*systems: pt.Transformer) -> pt.Transformer:
    """Add the scores of systems, each divided by the best score of the query."""
    normalised = [system >> pt.apply.generic(_divide_by_best, label="/ best score") for system in systems]
    return sum(normalised[1:], normalised[0])


def _divide_by_best(results: pd.DataFrame) -> pd.DataFrame:
    best = results["score"].abs().groupby(results["qid"]).transform("max")
    return results[["qid", "docno", "rank"]].assign(score=results["score"] / best)


def judged(collections: Path, name: str, files: dict[str, str], queries: Mapping[str, int] = QUERIES) -> Collection:
    """Read a collection with training queries of several kinds, at most as many as ``queries`` states for each kind."""
    folder = collections / name
    relevant = {row["qid"]: row["pos"] for _, row in read_jsonl(folder / "train.triples.jsonl.gz")}
    topics, qrels = [], []
    for kind, file in files.items():
        words = pd.read_csv(folder / file, sep="\t", names=["qid", "query"], dtype=str, quoting=3)
        words = words[words["qid"].isin(set(relevant))]
        words = words.sample(min(len(words), queries[kind]), random_state=SEED)
        topics += [(f"{kind}-{qid}", query) for qid, query in zip(words["qid"], words["query"])]
        qrels += [(f"{kind}-{qid}", docno, 1) for qid in words["qid"] for docno in relevant[qid]]
    return Collection(
        list(documents(folder)),
        pd.DataFrame(topics, columns=["qid", "query"]),
        pd.DataFrame(qrels, columns=["qid", "docno", "label"]),
    )


def packages(queries: int = QUERIES["packages"]) -> Collection:
    """Return a collection whose queries are the summary lines of docstrings, and whose documents are their other lines."""
    rows = package_rows()
    return known_items(rows, random.Random(SEED).sample(range(len(rows)), min(len(rows), queries)))


def known_items(rows: list[tuple[str, str]], drawn: list[int]) -> Collection:
    """Return a collection whose documents are the bodies of ``rows``, and whose queries are the summaries of the drawn ones."""
    return Collection(
        [{"docno": f"p{i}", "text": body} for i, (_, body) in enumerate(rows)],
        pd.DataFrame([(f"packages-{i}", rows[i][0]) for i in drawn], columns=["qid", "query"]),
        pd.DataFrame([(f"packages-{i}", f"p{i}", 1) for i in drawn], columns=["qid", "docno", "label"]),
    )


def teacher_scores(model: CSPLADE, collection: Collection, folder: Path) -> pd.DataFrame:
    """Retrieve and score with the teacher."""
    classic, impacts = folder / "terrier", ImpactIndex(folder / "impacts")
    if not classic.exists():
        pt.IterDictIndexer(str(classic), meta={"docno": 100}).index(iter(collection.documents))
    if not impacts.built():
        (model.doc_encoder(verbose=True) >> impacts).index(iter(collection.documents))
    bm25 = without_signs() >> pt.terrier.Retriever(str(classic), wmodel="BM25", num_results=RESULTS)
    learned = model.query_encoder() >> impacts.retriever(num_results=RESULTS, algorithm="exhaustive")
    teacher = fuse(bm25, learned)
    parts = [collection.topics[i : i + 500] for i in range(0, len(collection.topics), 500)]
    return pd.concat([teacher(part)[["qid", "docno", "score"]] for part in pt.tqdm(parts, desc="teacher")])


def mined_rows(model: CSPLADE, collection: Collection, folder: Path) -> Iterator[dict[str, object]]:
    """Yield training rows with the teacher's scores."""
    scores = teacher_scores(model, collection, folder)
    qrels = collection.qrels.merge(scores[["qid", "docno"]])
    topics = collection.topics[collection.topics["qid"].isin(set(qrels["qid"]))]
    mined = mine_negatives(
        scores, topics, qrels, DEPTH, output=folder / "mined.jsonl.gz", corpus=collection.documents, teacher=scores,
        negatives=NEGATIVES, seed=SEED,
    )  # fmt: skip
    for _, row in read_jsonl(mined):
        yield row


def main(model: str, collections: Path, output: Path) -> None:
    csplade = CSPLADE(model)
    sources = {
        "openstax": judged(collections, "openstax", {"openstax": "topics.train.tsv", "openstax-long": "queries.long.tsv"}),
        "medquad": judged(collections, "medquad", {"medquad": "topics.train.tsv"}),
        "packages": packages(),
    }
    rows = [row for name, source in sources.items() for row in mined_rows(csplade, source, output / name)]
    random.Random(SEED).shuffle(rows)
    write_jsonl(output / "distil.jsonl.gz", rows)
    print(f"{len(rows):,} rows")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).absolute())  # Terrier needs an absolute path
