"""Compare vocabularies: each arm is a vocabulary stage, adaptation, contrastive training and evaluation; see README.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures import R, nDCG

from pyterrier_csplade import CSPLADE, FoldTerms, ImpactIndex
from pyterrier_csplade.data import read_jsonl
from pyterrier_csplade.training import (
    AdaptationConfig,
    ContrastiveConfig,
    TargetNnz,
    VocabularyConfig,
    adapt,
    make_vocabulary,
    train,
)

_LOWER: dict[str, Any] = {"normalise": ["nfkc", "lowercase"]}
_CORPUS: dict[str, Any] = {"kind": "corpus", "min_documents": 2, **_LOWER}
#: Settings of the vocabulary stage; None leaves the model as it is.
ARMS: dict[str, dict[str, Any] | None] = {
    "cased": None,
    "lower": {"kind": "lower"},
    "cut": {"kind": "cut", "min_documents": 2},
    "lower-cut": {"kind": "cut", "min_documents": 2, **_LOWER},
    "corpus-8k": {**_CORPUS, "size": 8192},
    "corpus-16k": {**_CORPUS, "size": 16384},
    "corpus-32k": {**_CORPUS, "size": 32768},
    "corpus-64k": {**_CORPUS, "size": 65536},
    "corpus-16k-random": {**_CORPUS, "size": 16384, "rows": "random"},
    "corpus-16k-norms": {**_CORPUS, "size": 16384, "match_norms": False},
    "corpus-16k-neighbours": {**_CORPUS, "size": 16384, "rows": "neighbours"},
}
FOLDED = "cased-folded"
ALGORITHMS = ("terrier", "exhaustive", "maxscore", "bmp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a cased causal language model")
    parser.add_argument("--collections", required=True, nargs="+", type=Path, help="directories to train and evaluate on")
    parser.add_argument("--outside", nargs="*", default=[], type=Path, help="directories to evaluate on only")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--arms", nargs="+", default=[*ARMS, FOLDED], choices=[*ARMS, FOLDED])
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--adapt-steps", type=int, default=500, help="for the tokens of the model as it is")
    parser.add_argument("--train-steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--target-nnz", type=float, nargs=2, default=(16, 100), metavar=("QUERY", "DOCUMENT"))
    parser.add_argument("--no-bf16", action="store_true")
    arguments = parser.parse_args()
    corpus = write_corpus(arguments.collections, arguments.output / "corpus.jsonl")
    for arm in arguments.arms:
        directory = arguments.output / f"{arm}-{arguments.seed}"
        source = arguments.output / f"cased-{arguments.seed}" if arm == FOLDED else directory
        train_arm("cased" if arm == FOLDED else arm, source, corpus, arguments)
        for collection in (*arguments.collections, *arguments.outside):
            evaluate_once(CSPLADE(source / "trained"), collection, directory, folded=arm == FOLDED)
    sys.stdout.write(table(arguments.output).to_string(float_format="{:.4g}".format) + "\n")


def write_corpus(collections: list[Path], path: Path) -> Path:
    """Write the documents of all collections into one file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(document) for collection in collections for document in documents(collection))
        path.with_suffix(".part").write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.with_suffix(".part").rename(path)
    return path


def documents(collection: Path) -> Iterator[dict[str, str]]:
    """Yield ``docno`` and the text, with the title before texts that do not repeat it."""
    for _, row in read_jsonl(collection / "docs.jsonl.gz"):
        title, text = row.get("title") or "", row["text"]
        yield {"docno": row["docno"], "text": text if text.startswith(title) else f"{title} {text}"}


def train_arm(arm: str, directory: Path, corpus: Path, arguments: argparse.Namespace) -> None:
    """Run the steps of an arm that are not complete."""
    settings, model = ARMS[arm], Path(arguments.model)
    longer = 1.0
    if settings is not None:
        model = directory / "vocabulary"
        if not model.exists():
            make_vocabulary(VocabularyConfig(model=arguments.model, output=str(model), corpus=str(corpus), **settings))
        report = json.loads((model / "vocabulary_report.json").read_text())
        longer = report["after"]["tokens_per_word"] / report["before"]["tokens_per_word"]
    shared: dict[str, Any] = {"batch_size": arguments.batch_size, "seed": arguments.seed, "bf16": not arguments.no_bf16}
    adapted, trained = directory / "adapted", directory / "trained"
    if not (adapted / "training_config.json").exists():
        steps = max(1, round(arguments.adapt_steps * longer))
        config = AdaptationConfig(
            model=str(model), output=str(adapted), corpus=str(corpus), steps=steps, learning_rate=5e-4, sequence_length=128,
            objective="mntp", visible_rate=0.2, save_steps=100, **shared,
        )  # fmt: skip
        adapt(config, resume=True)
    if not (trained / "csplade_config.json").exists():
        query, document = arguments.target_nnz
        train(
            ContrastiveConfig(
                model=str(adapted), output=str(trained), data=[str(path) for path in arguments.collections], negatives=4,
                variant="bidirectional", steps=arguments.train_steps, learning_rate=1e-4, temperature=20,
                lambda_query=1e-3, lambda_document=1e-3, target_nnz=TargetNnz(query=query, document=document),
                query_prefix=". ", document_prefix=". ", encoding_document_length=256, save_steps=100, **shared,
            ),
            resume=True,
        )  # fmt: skip


def evaluate_once(csplade: CSPLADE, collection: Path, directory: Path, *, folded: bool) -> None:
    """Evaluate a model on the test queries of a collection, unless that has been done."""
    path = directory / f"result-{collection.name}.json"
    if path.exists():
        return
    fold = FoldTerms() if folded else None
    topics = pd.read_csv(collection / "topics.tsv", sep="\t", names=["qid", "query"], dtype=str, quoting=3)
    qrels = pd.read_csv(collection / "qrels.txt", sep=r"\s+", names=["qid", "_", "docno", "label"], dtype={"qid": str})
    qrels["docno"] = qrels["docno"].astype(str)
    index, started = ImpactIndex(directory / f"index-{collection.name}"), time.monotonic()
    vectors = list(csplade.doc_encoder(verbose=True).transform_iter(documents(collection)))
    seconds = time.monotonic() - started
    queries = csplade.query_encoder()(topics)
    if fold is not None:
        vectors, queries = list(fold.transform_iter(vectors)), FoldTerms(on="query_toks")(queries)
    if not index.built():
        index.index(vectors)
    result: dict[str, Any] = {"documents_per_second": len(vectors) / seconds, **describe(vectors, queries)}
    result["index_mb"] = sum(file.stat().st_size for file in index_files(index)) / 1e6
    for algorithm in ALGORITHMS:
        retriever = index.retriever(algorithm=algorithm, num_results=100)
        retriever(queries.head(5))  # files are read, kernels compiled
        started = time.monotonic()
        found = retriever(queries)
        result[f"ms_{algorithm}"] = 1000 * (time.monotonic() - started) / len(queries)
        if algorithm == "exhaustive":
            measured = pt.Evaluate(found, qrels, metrics=[nDCG @ 10, R @ 100])
            result |= {str(measure): float(value) for measure, value in measured.items()}
    path.write_text(json.dumps(result, indent=1) + "\n")


def index_files(index: ImpactIndex) -> list[Path]:
    """Return the files of an index."""
    return [file for file in Path(index.path).rglob("*") if file.is_file()]


def describe(vectors: list[dict[str, Any]], queries: pd.DataFrame) -> dict[str, float]:
    """Describe posting lists and the expected number of postings of a query (FLOPs)."""
    lists, asked = frequencies([vector["toks"] for vector in vectors]), frequencies(queries["query_toks"].tolist())
    postings = sum(lists.values())
    return {
        "terms_of_a_document": postings / len(vectors),
        "terms_of_a_query": sum(asked.values()) / len(queries),
        "distinct_terms": len(lists),
        "mean_posting_list": postings / max(1, len(lists)),
        "postings_of_a_query": sum(count * lists.get(term, 0) for term, count in asked.items()) / len(queries),
    }


def frequencies(vectors: list[Mapping[str, float]]) -> dict[str, int]:
    """Count in how many vectors each term is."""
    counts: dict[str, int] = {}
    for vector in vectors:
        for term in vector:
            counts[term] = counts.get(term, 0) + 1
    return counts


def table(output: Path) -> pd.DataFrame:
    """Return the results of all arms that were evaluated."""
    rows = []
    for path in sorted(output.glob("*/result-*.json")):
        report = path.parent / "vocabulary" / "vocabulary_report.json"
        after = json.loads(report.read_text())["after"] if report.exists() else {}
        row = {"collection": path.stem.removeprefix("result-"), "arm": path.parent.name, **json.loads(path.read_text())}
        rows.append({**row, "bits_per_byte_at_start": after.get("bits_per_byte", np.nan)})
    return pd.DataFrame(rows).set_index(["collection", "arm"]) if rows else pd.DataFrame()


if __name__ == "__main__":
    main()
