"""Training queries from the docstrings of many packages, besides those of csplade-tiny.

The packages are those of ``packages.txt``, each in a directory of its own, because only their source is read::

    grep -v "^#" packages.txt | while read package; do
        pip install --no-deps --target "build/sources/${package%==*}" "$package"
    done

Python's standard library, which the demo searches, and the development collection of ``prepare.py`` are left out, also where a
package copied their text.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csplade_tiny"))

from mine import Collection, known_items
from prepare import SEED, package_rows

from pyterrier_csplade.data import read_python_docs

#: Docstrings of each package at most, so that no package dominates.
LARGEST = 300
#: Queries from the packages of csplade-tiny, and from the others.
QUERIES = {"packages": 4500, "more": 10500}
#: A docstring is a copy if more than this share of its sequences of ``SEQUENCE`` words occurs in the standard library.
COPIED = 0.2
SEQUENCE = 8

Row = tuple[str, str]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def sequences(text: str) -> set[str]:
    """Return the sequences of ``SEQUENCE`` words of a text; a shorter text is one sequence."""
    found = words(text)
    return {" ".join(found[i : i + SEQUENCE]) for i in range(max(1, len(found) - SEQUENCE + 1))}


def more_rows(folder: Path, known: list[Row]) -> list[Row]:
    """Read the packages in the directories of ``folder``.

    Args:
        folder: One directory for each package.
        known: Summaries and bodies that are left out.

    Returns:
        Summary and body of the docstrings, at most ``LARGEST`` of each package.
    """
    library = read_python_docs(minimum_summary=1, minimum_body=1)
    copied = set().union(*(sequences(f"{doc.summary} {doc.body}") for doc in library))
    summaries = {" ".join(words(text)) for text in [*(doc.summary for doc in library), *(summary for summary, _ in known)]}
    bodies = {body for _, body in known}
    rows: list[Row] = []
    for package in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = []
        for doc in read_python_docs(package, minimum_summary=4, minimum_body=20):
            summary, own = " ".join(words(doc.summary)), sequences(doc.body)
            if summary not in summaries and doc.body not in bodies and len(own & copied) <= COPIED * len(own):
                summaries.add(summary)
                bodies.add(doc.body)
                found.append((doc.summary, doc.body))
        rows += random.Random(SEED).sample(found, min(LARGEST, len(found)))
    return rows


def collection(folder: Path, development: list[Row]) -> Collection:
    """Return a known-item collection of all packages: the query is the summary line, the document is the body.

    Args:
        folder: Directory of the packages of ``packages.txt``.
        development: Summaries and bodies of the development collection, which are left out.
    """
    first = package_rows()
    rows = first + more_rows(folder, first + development)
    rng, others = random.Random(SEED), range(len(first), len(rows))
    drawn = rng.sample(range(len(first)), min(len(first), QUERIES["packages"]))
    drawn += rng.sample(others, min(len(others), QUERIES["more"]))
    return known_items(rows, drawn)
