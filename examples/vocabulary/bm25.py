"""BM25 over the tokens of each vocabulary: what a vocabulary does to retrieval before any training.

Usage: python bm25.py --model MODEL --collections DIRECTORY ... [--outside DIRECTORY ...] --output OUTPUT [--arms ARM ...]

The arguments are those of run.py, which uses the same vocabularies. Results are kept in ``OUTPUT/bm25``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import AutoTokenizer

from pyterrier_csplade import ImpactIndex
from pyterrier_csplade.data import CollectionFiles

sys.path.insert(0, str(Path(__file__).resolve().parent))

from run import ARMS, documents, measure, vocabulary_of, write_corpus

#: Arms whose tokens differ; how rows are made does not change them.
VOCABULARIES = [arm for arm, settings in ARMS.items() if not {"rows", "match_norms"} & (settings or {}).keys()]

#: PyTerrier's parameters.
K1, B = 1.2, 0.75
#: Factor of the impacts, which are integers; weights are at most about 20.
SCALE = 10.0
# Terrier stores terms of up to 60 bytes.
LONGEST = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--collections", type=Path, nargs="+", required=True)
    parser.add_argument("--outside", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=VOCABULARIES, choices=VOCABULARIES)
    arguments = parser.parse_args()
    corpus = write_corpus(arguments.collections, arguments.output / "corpus.jsonl")
    rows = []
    for arm in arguments.arms:
        vocabulary = vocabulary_of(arm, arguments.model, arguments.output / f"{arm}-42", corpus)
        for collection in (*arguments.collections, *arguments.outside):
            path = arguments.output / "bm25" / collection.name / f"{arm}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(evaluate(vocabulary, collection, path.with_suffix("")), indent=1) + "\n")
            rows.append({"collection": collection.name, "vocabulary": arm, **json.loads(path.read_text())})
    table = pd.DataFrame(rows).sort_values("collection", kind="stable").set_index(["collection", "vocabulary"])
    sys.stdout.write(table.to_string(float_format="{:.4g}".format) + "\n")


def evaluate(vocabulary: Path, collection: Path, index: Path) -> dict[str, float]:
    """Evaluate BM25 over the tokens of a vocabulary."""
    tokenizer, files = AutoTokenizer.from_pretrained(vocabulary), CollectionFiles(collection)
    corpus, topics = list(documents(collection)), files.topics("test")
    texts = count_terms(tokenizer, [document["text"] for document in corpus])
    vectors = [{"docno": document["docno"], "toks": toks} for document, toks in zip(corpus, bm25_impacts(texts))]
    queries = topics.assign(query_toks=[dict(counts) for counts in count_terms(tokenizer, topics["query"].tolist())])
    length = {"tokens_of_a_document": sum(counts.total() for counts in texts) / len(texts)}
    return {**length, **measure(ImpactIndex(index), vectors, queries, files.qrels("test"))}


def count_terms(tokenizer: Any, texts: Sequence[str]) -> list[Counter[str]]:
    """Count the tokens of each text."""
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [Counter(names[i] for i in text if len(names[i].encode()) <= LONGEST) for text in ids]


def bm25_impacts(texts: Sequence[Counter[str]]) -> list[dict[str, int]]:
    """Return the BM25 weights of the terms of each text, times ``SCALE`` and rounded; those that become 0 are left out."""
    documents_of = Counter(term for counts in texts for term in counts)
    idf = {term: np.log1p((len(texts) - count + 0.5) / (count + 0.5)) for term, count in documents_of.items()}
    average = sum(counts.total() for counts in texts) / len(texts)
    found = []
    for counts in texts:
        saturation = K1 * (1 - B + B * counts.total() / average)
        weights = {term: round(SCALE * idf[term] * n * (K1 + 1) / (n + saturation)) for term, n in counts.items()}
        found.append({term: weight for term, weight in weights.items() if weight})
    return found


if __name__ == "__main__":
    main()
