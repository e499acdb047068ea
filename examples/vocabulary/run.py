"""Compare vocabularies: each arm is a vocabulary stage, two adaptations, contrastive training and evaluation; see README.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ir_measures import R, calc_aggregate, nDCG

from pyterrier_csplade import CSPLADE, FoldTerms, ImpactIndex
from pyterrier_csplade.cli.demo import directory_size
from pyterrier_csplade.data import CollectionFiles
from pyterrier_csplade.training import (
    AdaptationConfig,
    ContrastiveConfig,
    LexicalSettings,
    PassageSettings,
    TargetNnz,
    VocabularyConfig,
    adapt,
    make_vocabulary,
    train,
)

_LOWER: dict[str, Any] = {"normalise": ["nfkc", "lowercase"]}
_WORDS: dict[str, Any] = {"normalise": ["nfkc", "lowercase", "words"]}
_CORPUS: dict[str, Any] = {"kind": "corpus", "min_documents": 2, **_LOWER}
#: Settings of the vocabulary stage; None leaves the model as it is.
ARMS: dict[str, dict[str, Any] | None] = {
    "cased": None,
    "lower": {"kind": "lower"},
    "words": {"kind": "lower", **_WORDS},
    "cut": {"kind": "cut", "min_documents": 2},
    "lower-cut": {"kind": "cut", "min_documents": 2, **_LOWER},
    "words-cut": {"kind": "cut", "min_documents": 2, **_WORDS},
    "corpus-8k": {**_CORPUS, "size": 8192},
    "corpus-16k": {**_CORPUS, "size": 16384},
    "corpus-32k": {**_CORPUS, "size": 32768},
    "corpus-64k": {**_CORPUS, "size": 65536},
    "corpus-16k-words": {**_CORPUS, "size": 16384, **_WORDS},
    "corpus-16k-random": {**_CORPUS, "size": 16384, "rows": "random"},
    "corpus-16k-norms": {**_CORPUS, "size": 16384, "match_norms": False},
    "corpus-16k-neighbours": {**_CORPUS, "size": 16384, "rows": "neighbours"},
}
FOLDED = "cased-folded"
#: A token is predicted at the position before it, so the first word of a text needs a preceding token.
PREFIX = ". "
#: Number of documents for the measurement of bits per byte.
MEASURED_DOCUMENTS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a cased causal language model")
    parser.add_argument("--collections", required=True, nargs="+", type=Path, help="directories to train and evaluate on")
    parser.add_argument("--outside", nargs="*", default=[], type=Path, help="directories to evaluate on only")
    parser.add_argument("--text", nargs="+", type=Path, help="directories of the text to adapt to; default: --collections")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--arms", nargs="+", default=[*ARMS, FOLDED], choices=[*ARMS, FOLDED])
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--adapt-steps", type=int, default=500, help="for the tokens of the model as it is")
    parser.add_argument("--lexical-steps", type=int, default=300)
    parser.add_argument("--train-steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--negatives", type=int, default=4)
    parser.add_argument("--length", type=int, default=256, help="tokens of a document")
    parser.add_argument(
        "--learning-rates", type=float, nargs=3, default=(5e-4, 3e-4, 1e-4), metavar=("ADAPT", "LEXICAL", "TRAIN")
    )
    parser.add_argument("--target-nnz", type=float, nargs=2, default=(16, 100), metavar=("QUERY", "DOCUMENT"))
    parser.add_argument("--no-bf16", action="store_true")
    arguments = parser.parse_args()
    corpus = write_corpus(arguments.text or arguments.collections, arguments.output / "corpus.jsonl")
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
    for row in CollectionFiles(collection).documents():
        title, text = row.get("title") or "", row["text"]
        yield {"docno": row["docno"], "text": text if text.startswith(title) else f"{title} {text}"}


def vocabulary_of(arm: str, model: str, directory: Path, corpus: Path) -> Path:
    """Run the vocabulary stage of an arm unless it is complete, and return its model."""
    settings, output = ARMS[arm], directory / "vocabulary"
    if settings is None:
        return Path(model)
    if not output.exists():
        config = VocabularyConfig(
            model=model, output=str(output), corpus=str(corpus), measured_documents=MEASURED_DOCUMENTS, **settings
        )
        make_vocabulary(config)
    return output


def train_arm(arm: str, directory: Path, corpus: Path, arguments: argparse.Namespace) -> None:
    """Run the incomplete steps of an arm."""
    model, longer = vocabulary_of(arm, arguments.model, directory, corpus), 1.0
    if ARMS[arm] is not None:
        report = json.loads((model / "vocabulary_report.json").read_text())
        longer = report["after"]["tokens_per_word"] / report["before"]["tokens_per_word"]
    shared: dict[str, Any] = {
        "batch_size": arguments.batch_size, "seed": arguments.seed, "bf16": not arguments.no_bf16, "save_steps": 100,
    }  # fmt: skip
    adapted, lexical, trained = directory / "adapted", directory / "lexical", directory / "trained"
    adapt_rate, lexical_rate, train_rate = arguments.learning_rates
    if not (adapted / "training_config.json").exists():
        steps = max(1, round(arguments.adapt_steps * longer))
        config = AdaptationConfig(
            model=str(model), output=str(adapted), corpus=str(corpus), steps=steps, sequence_length=128, objective="mntp",
            learning_rate=adapt_rate, visible_rate=0.2, **shared,
        )  # fmt: skip
        adapt(config, resume=True)
    if not (lexical / "training_config.json").exists():
        passages = PassageSettings(variant="bidirectional", document_prefix=PREFIX, longest=arguments.length)
        config = AdaptationConfig(
            model=str(adapted), output=str(lexical), corpus=str(corpus), steps=arguments.lexical_steps, objective="pooled",
            passages=passages, lexical=LexicalSettings(target="bm25"), prediction_weight=0.3, visible_rate=0.2,
            learning_rate=lexical_rate, **shared,
        )  # fmt: skip
        adapt(config, resume=True)
    if not (trained / "csplade_config.json").exists():
        query, document = arguments.target_nnz
        train(
            ContrastiveConfig(
                model=str(lexical), output=str(trained), data=[str(path) for path in arguments.collections],
                variant="bidirectional", steps=arguments.train_steps, learning_rate=train_rate, negatives=arguments.negatives,
                lexical=LexicalSettings(target="bm25", others_weight=0), lambda_query=1e-2, lambda_document=1e-2,
                target_nnz=TargetNnz(query=query, document=document), flops_warmup_steps=0,
                query_prefix=PREFIX, document_prefix=PREFIX, document_length=arguments.length, stop_on_collapse=False, **shared,
            ),
            resume=True,
        )  # fmt: skip


def evaluate_once(csplade: CSPLADE, collection: Path, directory: Path, *, folded: bool) -> None:
    """Evaluate a model on the test queries of a collection, unless the result exists."""
    path = directory / f"result-{collection.name}.json"
    if path.exists():
        return
    fold = FoldTerms() if folded else None
    directory.mkdir(parents=True, exist_ok=True)
    files, index = CollectionFiles(collection), ImpactIndex(directory / f"index-{collection.name}")
    vectors = list(csplade.doc_encoder(verbose=True).transform_iter(documents(collection)))
    queries = csplade.query_encoder()(files.topics("test"))
    if fold is not None:
        vectors, queries = list(fold.transform_iter(vectors)), FoldTerms(on="query_toks")(queries)
    queries.to_json(directory / f"queries-{collection.name}.json", orient="records")
    if not index.built():
        index.index(vectors)
    texts = [document["text"] for document in documents(collection)]
    ids = csplade.backbone.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    result = {"tokens_of_a_document": sum(map(len, ids)) / len(texts), **describe(vectors, queries)}
    result["index_mb"] = directory_size(index.directory)
    found = index.retriever(algorithm="exhaustive", num_results=100)(queries)
    result |= effectiveness(found, files.qrels("test"))
    path.write_text(json.dumps(result, indent=1) + "\n")


def effectiveness(found: pd.DataFrame, qrels: pd.DataFrame) -> dict[str, float]:
    """Return the measures of a run."""
    run = found.rename(columns={"qid": "query_id", "docno": "doc_id"})
    judged = qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
    return {str(name): float(value) for name, value in calc_aggregate([nDCG @ 10, R @ 100], judged, run).items()}


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
    """Count the vectors that contain each term."""
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
