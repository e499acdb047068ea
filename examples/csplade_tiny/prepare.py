"""Prepare the text, the training rows and the untrained model of csplade-tiny.

Usage: python prepare.py COLLECTIONS OUTPUT

COLLECTIONS holds the folders ``openstax`` and ``medquad`` (``docs.jsonl.gz``, ``topics.train.tsv``, ``qrels.train.txt``,
``train.triples.jsonl.gz``), both CC BY 4.0. The documentation of permissively licensed Python packages is read from the
packages that are installed. Only training splits are read; the documents of Python's own standard library, which the demo
searches, are left out of everything.

OUTPUT gets ``corpus.jsonl.gz`` (text for the language model), ``train.jsonl.gz`` (query, positives, negatives),
``train-openstax.jsonl.gz`` (those of them that come from openstax's queries), and ``untrained/`` (a randomly initialised Llama
with its own byte-level BPE).
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyterrier_csplade._jsonl import read_jsonl
from pyterrier_csplade._python_docs import python_docs
from pyterrier_csplade.training._rows import passage_text

SEED = 7
VOCABULARY_SIZE = 12_288
#: Packages whose licence is BSD, MIT, Apache-2.0 or PSF; their docstrings serve as text and as known-item training rows.
PACKAGES = ("numpy", "scipy", "pandas", "sklearn", "networkx", "sympy", "statsmodels", "matplotlib", "torch", "transformers")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def package_rows() -> list[tuple[str, str]]:
    """Known-item rows of the installed packages: query = summary line, document = body.

    What a package took over from the standard library is left out: the demo searches it.
    """
    demo = python_docs(minimum_summary=1, minimum_body=1)
    summaries, bodies = {doc.summary for doc in demo}, {doc.body for doc in demo}
    rows: dict[str, str] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed: pip install -r requirements.txt")
        for doc in python_docs(Path(spec.origin).parent, minimum_summary=4, minimum_body=20):
            if doc.summary not in summaries and doc.body not in bodies:
                summaries.add(doc.summary)
                bodies.add(doc.body)
                rows[doc.summary] = doc.body
    return sorted(rows.items())


def collection_rows(folder: Path, texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    topics = dict(line.rstrip("\n").split("\t", 1) for line in (folder / "topics.train.tsv").open(encoding="utf-8"))
    for _, row in read_jsonl(folder / "train.triples.jsonl.gz"):
        yield training_row(topics[row["qid"]], [texts[d] for d in row["pos"]], [texts[d] for d in row["neg"]])


def training_row(query: str, positives: list[str], negatives: list[str]) -> dict[str, Any]:
    return {
        "query": query,
        "positive_passages": [{"text": text} for text in positives],
        "negative_passages": [{"text": text} for text in negatives],
    }


def sentence_rows(documents: list[dict[str, Any]], rng: random.Random, number: int) -> Iterator[dict[str, Any]]:
    """Weak rows of running text: query = a sentence taken out of a paragraph, document = the paragraph without it."""
    for document in rng.sample(documents, number):
        sentences = document["text"].split(". ")
        if len(sentences) >= 4:
            query = sentences.pop(rng.randrange(len(sentences)))
            if 5 <= len(query.split()) <= 40:
                yield training_row(query, [". ".join(sentences)], [])


def train_tokenizer(texts: list[str], output: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    # Case is folded and every word starts with a space, so that a word is one index term wherever it stands.
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            special_tokens=["<|end|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=1024, padding_side="right"
    )
    tokenizer.save_pretrained(output)
    return tokenizer


def initialise_model(tokenizer: Any, output: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(output)


def main(collections: Path, output: Path) -> None:
    rng = random.Random(SEED)
    output.mkdir(parents=True, exist_ok=True)
    corpus: list[str] = []
    rows: list[dict[str, Any]] = []
    openstax_queries: set[str] = set()
    for name in ("openstax", "medquad"):
        documents = [document for _, document in read_jsonl(collections / name / "docs.jsonl.gz")]
        texts = {document["docno"]: passage_text(document) for document in documents}
        corpus += texts.values()
        rows += collection_rows(collections / name, texts)
        if name == "openstax":
            openstax_queries.update(row["query"] for row in rows)
            rows += sentence_rows(documents, rng, 20_000)
    packages = package_rows()
    corpus += [f"{summary} {body}" for summary, body in packages]
    rows += [training_row(summary, [body], []) for summary, body in packages]
    rng.shuffle(corpus)
    rng.shuffle(rows)
    write_jsonl(output / "corpus.jsonl.gz", [{"text": text} for text in corpus])
    write_jsonl(output / "train.jsonl.gz", rows)
    write_jsonl(output / "train-openstax.jsonl.gz", [row for row in rows if row["query"] in openstax_queries])
    tokenizer = train_tokenizer(corpus, output / "untrained")
    initialise_model(tokenizer, output / "untrained")
    print(f"{len(corpus):,} texts, {sum(map(len, corpus)):,} characters, {len(rows):,} training rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
