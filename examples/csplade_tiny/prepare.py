"""Prepare the text, the training rows and the untrained model of csplade-tiny.

Usage: python prepare.py COLLECTIONS OUTPUT

COLLECTIONS has the folders ``openstax`` and ``medquad`` (``docs.jsonl.gz``, ``topics.train.tsv``, ``train.triples.jsonl.gz``,
openstax also ``queries.long.tsv``), both CC BY 4.0. The documentation of permissively licensed Python packages is read from the
installed packages. Only training splits are read. The documents of Python's standard library are left out of everything, since
the demo searches them.

OUTPUT gets ``corpus.jsonl.gz`` (text for the language model), ``train.jsonl.gz`` (query, positives, negatives),
``judged.jsonl.gz`` (its rows with a query that a person wrote) and ``untrained/`` (a Llama with its own byte-level BPE, see
``untrained.py``).
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keywords import Keywords
from untrained import initialise_model, train_tokenizer

from pyterrier_csplade.data import read_jsonl, read_python_docs
from pyterrier_csplade.training.rows import passage_text

SEED = 7
#: Packages whose licence is BSD, MIT, Apache-2.0 or PSF; their docstrings serve as text and as known-item training rows.
PACKAGES = ("numpy", "scipy", "pandas", "sklearn", "networkx", "sympy", "statsmodels", "matplotlib", "torch", "transformers")
#: Copies of a glossary query of openstax in the training data, which has many more other rows.
GLOSSARY_COPIES = 3
#: Paragraphs on either side from which the negatives of an unjudged paragraph are drawn.
NEIGHBOURS = 4

Row = dict[str, Any]


def write_jsonl(path: Path, rows: list[Row]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def training_row(query: str, positives: list[str], negatives: list[str]) -> Row:
    return {
        "query": query,
        "positive_passages": [{"text": text} for text in positives],
        "negative_passages": [{"text": text} for text in negatives],
    }


def package_rows(packages: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Make known-item rows from installed packages: the query is the summary line, the document is the body.

    Docstrings that a package took from the standard library are left out, since the demo searches them.

    Args:
        packages: Names of the packages; ``PACKAGES`` by default.
    """
    demo = read_python_docs(minimum_summary=1, minimum_body=1)
    summaries, bodies = {doc.summary for doc in demo}, {doc.body for doc in demo}
    rows: dict[str, str] = {}
    for package in PACKAGES if packages is None else packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed: pip install -r requirements.txt")
        for doc in read_python_docs(Path(spec.origin).parent, minimum_summary=4, minimum_body=20):
            if doc.summary not in summaries and doc.body not in bodies:
                summaries.add(doc.summary)
                bodies.add(doc.body)
                rows[doc.summary] = doc.body
    return sorted(rows.items())


def judged_rows(folder: Path, topics: str, texts: dict[str, str]) -> Iterator[Row]:
    """Yield rows for the training queries of a collection, with the wording of the file ``topics``."""
    words = dict(line.rstrip("\n").split("\t", 1) for line in (folder / topics).open(encoding="utf-8"))
    for _, row in read_jsonl(folder / "train.triples.jsonl.gz"):
        if row["qid"] in words:
            yield training_row(words[row["qid"]], [texts[d] for d in row["pos"]], [texts[d] for d in row["neg"]])


def unjudged_rows(documents: list[Row], keywords: Keywords, rng: random.Random) -> Iterator[Row]:
    """Yield two weak rows for each paragraph: one of its sentences, and some of its keywords, each as a query for it.

    Neighbours in the book are the negatives. The sentence and the title stay in half of the documents, so that the model also
    learns exact matches.
    """
    for position, document in enumerate(documents):
        others = [i for i in range(position - NEIGHBOURS, position + NEIGHBOURS + 1) if i != position]
        near = [passage_text(documents[i]) for i in rng.sample([i for i in others if 0 <= i < len(documents)], 2)]
        sentences = document["text"].split(". ")
        drawn = rng.randrange(len(sentences))
        if len(sentences) >= 3 and 5 <= len(sentences[drawn].split()) <= 40:
            body = document["text"] if rng.random() < 0.5 else ". ".join(sentences[:drawn] + sentences[drawn + 1 :])
            body = f"{document.get('title') or ''} {body}" if rng.random() < 0.5 else body
            yield training_row(sentences[drawn], [body], near)
        if query := keywords.draw(document["text"], rng):
            yield training_row(query, [passage_text(document)], near)


def write_data(collections: Path, output: Path) -> list[str]:
    """Write the three files of text and training rows; return the text."""
    rng = random.Random(SEED)
    output.mkdir(parents=True, exist_ok=True)
    documents = {name: [d for _, d in read_jsonl(collections / name / "docs.jsonl.gz")] for name in ("openstax", "medquad")}
    texts = {name: {d["docno"]: passage_text(d) for d in rows} for name, rows in documents.items()}
    packages = package_rows()
    keywords = Keywords(d["text"] for rows in documents.values() for d in rows)
    rows = GLOSSARY_COPIES * list(judged_rows(collections / "openstax", "topics.train.tsv", texts["openstax"]))
    rows += judged_rows(collections / "openstax", "queries.long.tsv", texts["openstax"])
    rows += judged_rows(collections / "medquad", "topics.train.tsv", texts["medquad"])
    rows += [training_row(summary, [body], []) for summary, body in packages]
    write_jsonl(output / "judged.jsonl.gz", rows)
    for name in documents:
        rows += unjudged_rows(documents[name], keywords, rng)
    rows += [training_row(query, [body], []) for _, body in packages if (query := keywords.draw(body, rng))]
    corpus = [text for name in texts for text in texts[name].values()] + [f"{s} {b}" for s, b in packages]
    rng.shuffle(corpus)
    rng.shuffle(rows)
    write_jsonl(output / "corpus.jsonl.gz", [{"text": text} for text in corpus])
    write_jsonl(output / "train.jsonl.gz", rows)
    print(f"{len(corpus):,} texts, {sum(map(len, corpus)):,} characters, {len(rows):,} training rows")
    return corpus


def main(collections: Path, output: Path) -> None:
    corpus = write_data(collections, output)
    tokenizer = train_tokenizer(corpus, output / "untrained")
    initialise_model(tokenizer, corpus, output / "untrained")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
