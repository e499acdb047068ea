"""Prepare the text, the training rows and a development collection of csplade-small.

Usage: python prepare.py COLLECTIONS OUTPUT

COLLECTIONS is the same as for ``csplade_tiny/prepare.py``, whose texts and rows these are: training splits of openstax and
medquad (CC BY 4.0), and the documentation of permissively licensed packages. Python's standard library is left out, since the
demo searches it, and MS MARCO is never read.

OUTPUT gets ``corpus.jsonl.gz`` (text for adaptation and the lexical warm start), ``train.jsonl.gz`` (query, positives,
negatives), ``judged.jsonl.gz`` (its rows with a query that a person wrote), and ``packages-dev``, a known-item collection of
packages that are not in the training data, for validation.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csplade_tiny"))

import prepare as tiny

#: Packages of the development collection; licences: Apache-2.0, BSD, MIT, Unlicense.
DEVELOPMENT = ("peft", "accelerate", "huggingface_hub", "tokenizers", "fsspec", "filelock", "jinja2", "click", "requests")


def write_development(output: Path) -> int:
    """Write a collection whose queries are the summary lines of docstrings, for the rest of them; return its size."""
    trained = {text for row in tiny.package_rows() for text in row}
    rows = [row for row in tiny.package_rows(DEVELOPMENT) if not trained & set(row)]
    output.mkdir(parents=True, exist_ok=True)
    tiny.write_jsonl(output / "docs.jsonl.gz", [{"docno": f"d{i}", "text": body} for i, (_, body) in enumerate(rows)])
    queries = (f"q{i}\t{' '.join(summary.split())}\n" for i, (summary, _) in enumerate(rows))
    (output / "topics.dev.tsv").write_text("".join(queries), encoding="utf-8")
    (output / "qrels.dev.txt").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(len(rows))), encoding="utf-8")
    return len(rows)


def main(collections: Path, output: Path) -> None:
    tiny.write_data(collections, output)
    print(f"{write_development(output / 'packages-dev'):,} documents in the development collection")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
