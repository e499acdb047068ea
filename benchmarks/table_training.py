"""Documents trained with a query table, against documents trained with the model's queries, after equal steps.

Usage: python benchmarks/table_training.py COLLECTIONS CACHE [--name medquad] [--steps 200] [--documents N]

COLLECTIONS contains a folder with ``docs.jsonl.gz``, ``topics.tsv``, ``qrels.txt``, ``topics.train.tsv`` and
``train.triples.jsonl.gz``. csplade-tiny is trained further on these queries, by InfoNCE with the same settings and the same
target of terms per document, in three ways: the model encodes queries, a table of weights does, or a table that starts from
ridge regression and has four expansion entries per token. Then each model encodes the documents. CACHE keeps models, vectors
and ``table_training.json``; an interrupted run resumes. FLOPs is the expected number of products of a query and a document.

Predictions, written before the first run: a table with expansion has at least .97 of the nDCG@10 of the model's queries, and
more than the same table that is made after training; a table of weights has .90 to .97, above the .88 of the table "counts"
that is made for documents that were trained with the model's queries, because documents take over the expansion; its FLOPs
are at most a fifth.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _query_vectors import Encoded
from query_table import Search, rows, trained
from scipy.sparse import csr_matrix

from pyterrier_csplade import CSPLADE, QueryTable
from pyterrier_csplade.queries.filling import Filling, fill
from pyterrier_csplade.queries.table import tokens_of
from pyterrier_csplade.training import ContrastiveConfig, QuerySettings, TargetNnz, train

#: Terms per query and per document at the end; csplade-tiny has about as many.
TARGET = {"query": 25.0, "document": 90.0}
SETTINGS: dict[str, Any] = {
    "variant": "bidirectional", "batch_size": 32, "negatives": 3, "query_length": 33,
    "document_length": 129, "encoding_document_length": 257, "query_prefix": ". ", "document_prefix": ". ",
    "learning_rate": 2e-4, "warmup_steps": 10, "weight_decay": 0.01, "lambda_query": 0.02, "lambda_document": 0.015,
    "logging_steps": 20, "save_steps": 100, "seed": 5, "report_to": [],
}  # fmt: skip


def made_table(model: CSPLADE, collection: Encoded, directory: Path) -> QueryTable:
    """Fill a table with four entries per token from the training queries."""
    texts, vectors = trained(collection)
    weights, expansion = fill(tokens_of(model)(texts), vectors, Filling(entries=4))
    table = QueryTable.from_weights(model, weights, expansion)
    if not directory.exists():
        table.save(directory)
    return table


def measured(arm: str, model: CSPLADE, folder: Path, cache: Path, documents: int | None) -> dict[str, dict[str, float]]:
    """Measure a trained model with its own queries, and one without a table with a table of weights and with expansion."""
    collection = Encoded(folder, cache / arm, model, documents)
    search, texts = Search(collection), collection.topics("test")["query"].tolist()
    found = {"own queries": collection.queries("test")}
    if arm == "model":
        seen, vectors = tokens_of(model)(trained(collection)[0]), collection.queries("train")
        for kind in ("counts", "ridge"):
            weights, expansion = fill(seen, vectors, Filling(kind=kind, entries=4))
            found[f"{kind}, made afterwards"] = tokens_of(model)(texts) @ rows(weights, expansion)
    terms, results = round(collection.documents.nnz / len(collection.docnos), 1), {}
    for system, made in found.items():
        queries = csr_matrix(made)
        results[system] = {"document terms": terms, **search.measures(search.scores(queries)), **search.cost(queries)}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--name", default="medquad")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--documents", type=int, help="use the first documents, and the queries that are judged on them")
    args = parser.parse_args()
    folder, tiny = args.collections / args.name, CSPLADE.tiny()
    made_table(tiny, Encoded(folder, args.cache, tiny, args.documents), args.cache / "start.table")
    arms: dict[str, QuerySettings] = {
        "model": QuerySettings(),
        "table": QuerySettings(encoder="table"),
        "table-expansion": QuerySettings(encoder="table", start=str(args.cache / "start.table")),
    }
    results = {}
    for arm, query in arms.items():
        output = args.cache / f"trained-{arm}-{args.steps}"
        target = TargetNnz(**(TARGET if arm == "model" else {"document": TARGET["document"]}))
        config = ContrastiveConfig(
            model=str(tiny.model),
            data=str(folder),
            output=str(output),
            steps=args.steps,
            query=query,
            target_nnz=target,
            **SETTINGS,
        )
        path = train(config, resume=output.exists())
        results[arm] = measured(arm, CSPLADE(path), folder, args.cache / f"after-{args.steps}", args.documents)
        print(json.dumps({arm: results[arm]}, indent=1), flush=True)
        (args.cache / "table_training.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
