"""BM25 over the tokens of each vocabulary, to show the effect of a vocabulary on retrieval before any training.

Usage: python bm25.py --model MODEL --collections DIRECTORY ... [--outside DIRECTORY ...] [--text DIRECTORY ...]
           --output OUTPUT [--arms ARM ...]

The arguments are those of run.py, which uses the same vocabularies. Results are kept in ``OUTPUT/bm25``. No index is built,
because the scores are computed as a product of matrices.
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
from scipy.sparse import csr_matrix
from transformers import AutoTokenizer

from pyterrier_csplade.data import CollectionFiles

sys.path.insert(0, str(Path(__file__).resolve().parent))

from run import ARMS, describe, documents, effectiveness, vocabulary_of, write_corpus

#: Arms with different tokens. Arms that differ only in the rows of the tokens are left out.
VOCABULARIES = [arm for arm, settings in ARMS.items() if not {"rows", "match_norms"} & (settings or {}).keys()]

#: PyTerrier's parameters.
K1, B = 1.2, 0.75
RESULTS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--collections", type=Path, nargs="+", required=True)
    parser.add_argument("--outside", type=Path, nargs="*", default=[])
    parser.add_argument("--text", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=VOCABULARIES, choices=VOCABULARIES)
    arguments = parser.parse_args()
    corpus = write_corpus(arguments.text or arguments.collections, arguments.output / "corpus.jsonl")
    rows = []
    for arm in arguments.arms:
        vocabulary = vocabulary_of(arm, arguments.model, arguments.output / f"{arm}-42", corpus)
        for collection in (*arguments.collections, *arguments.outside):
            path = arguments.output / "bm25" / collection.name / f"{arm}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(evaluate(vocabulary, collection), indent=1) + "\n")
            rows.append({"collection": collection.name, "vocabulary": arm, **json.loads(path.read_text())})
    table = pd.DataFrame(rows).sort_values("collection", kind="stable").set_index(["collection", "vocabulary"])
    sys.stdout.write(table.to_string(float_format="{:.4g}".format) + "\n")


def evaluate(vocabulary: Path, collection: Path) -> dict[str, float]:
    """Evaluate BM25 over the tokens of a vocabulary."""
    tokenizer, files = AutoTokenizer.from_pretrained(vocabulary), CollectionFiles(collection)
    corpus, topics = list(documents(collection)), files.topics("test")
    texts = count_terms(tokenizer, [document["text"] for document in corpus])
    vectors = [{"docno": document["docno"], "toks": toks} for document, toks in zip(corpus, bm25_weights(texts))]
    queries = topics.assign(query_toks=count_terms(tokenizer, topics["query"].tolist()))
    length = {"tokens_of_a_document": sum(counts.total() for counts in texts) / len(texts)}
    return {**length, **describe(vectors, queries), **effectiveness(search(vectors, queries), files.qrels("test"))}


def search(vectors: list[dict[str, Any]], queries: pd.DataFrame) -> pd.DataFrame:
    """Return the best documents of each query."""
    places: dict[str, int] = {}
    both = [
        [{places.setdefault(term, len(places)): weight for term, weight in toks.items()} for toks in side]
        for side in ([vector["toks"] for vector in vectors], queries["query_toks"])
    ]
    scores = (matrix(both[1], len(places)) @ matrix(both[0], len(places)).T).toarray()
    rows = []
    for qid, row in zip(queries["qid"], scores):
        best = np.argsort(-row, kind="stable")[:RESULTS]
        rows += [(qid, vectors[place]["docno"], row[place]) for place in best if row[place] > 0]
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


def matrix(rows: list[dict[int, float]], columns: int) -> csr_matrix:
    """Return rows as one sparse matrix."""
    indptr = np.cumsum([0, *map(len, rows)])
    places, weights = [place for row in rows for place in row], [weight for row in rows for weight in row.values()]
    return csr_matrix((np.asarray(weights, float), places, indptr), shape=(len(rows), columns))


def count_terms(tokenizer: Any, texts: Sequence[str]) -> list[Counter[str]]:
    """Count the tokens of each text."""
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [Counter(names[i] for i in text) for text in ids]


def bm25_weights(texts: Sequence[Counter[str]]) -> list[dict[str, float]]:
    """Return the BM25 weights of the terms of each text."""
    documents_of = Counter(term for counts in texts for term in counts)
    idf = {term: np.log1p((len(texts) - count + 0.5) / (count + 0.5)) for term, count in documents_of.items()}
    average = sum(counts.total() for counts in texts) / len(texts)
    found = []
    for counts in texts:
        saturation = K1 * (1 - B + B * counts.total() / average)
        found.append({term: idf[term] * n * (K1 + 1) / (n + saturation) for term, n in counts.items()})
    return found


if __name__ == "__main__":
    main()
