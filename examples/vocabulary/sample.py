"""Write a smaller copy of a collection, for experiments on a CPU.

The copy contains randomly drawn test queries and training rows with their documents, and other randomly drawn documents. Its
measures are not comparable with the measures on the whole collection, because fewer documents compete.

Usage: python sample.py COLLECTION OUTPUT [--documents 2000] [--queries 300] [--rows 400] [--negatives 2] [--seed 42]
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyterrier_csplade.data import CollectionFiles, read_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=300, help="test queries")
    parser.add_argument("--rows", type=int, default=400, help="training rows")
    parser.add_argument("--negatives", type=int, default=2, help="of a training row")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    write_sample(arguments.collection, arguments.output, arguments)


def write_sample(collection: Path, output: Path, sizes: argparse.Namespace) -> None:
    """Write the copy."""
    source, draw = CollectionFiles(collection), random.Random(sizes.seed)
    topics, qrels = source.topics("test"), source.qrels("test")
    chosen = set(draw.sample(sorted(topics["qid"]), min(sizes.queries, len(topics))))
    topics, qrels = topics[topics["qid"].isin(chosen)], qrels[qrels["qid"].isin(chosen)]
    rows = [row for _, row in read_jsonl(source.find("train.triples.jsonl"))]
    rows = [{**row, "neg": row["neg"][: sizes.negatives]} for row in draw.sample(rows, min(sizes.rows, len(rows)))]
    queries = source.training_topics()

    documents = {document["docno"]: document for document in source.documents()}
    kept = {*qrels["docno"], *(docno for row in rows for docno in (*row["pos"], *row["neg"]))} & documents.keys()
    others = [docno for docno in documents if docno not in kept]
    kept |= set(draw.sample(others, min(len(others), max(0, sizes.documents - len(kept)))))

    output.mkdir(parents=True)
    write_lines(output / "docs.jsonl.gz", (document for docno, document in documents.items() if docno in kept))
    write_lines(output / "train.triples.jsonl.gz", rows)
    write_table(output / "topics.tsv", "\t", topics[["qid", "query"]].itertuples(index=False))
    write_table(output / "topics.train.tsv", "\t", ((row["qid"], queries[row["qid"]]) for row in rows))
    judged = qrels[qrels["docno"].isin(kept)]
    write_table(output / "qrels.txt", " ", ((row.qid, "0", row.docno, row.label) for row in judged.itertuples()))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSONL file."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_table(path: Path, separator: str, rows: Iterable[Iterable[Any]]) -> None:
    """Write a table without a header."""
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
