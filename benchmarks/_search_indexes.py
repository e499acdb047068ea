"""Building the indexes that benchmarks/search.py searches with this package."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from synthetic import StoredVectors, guide_of_noise, guide_of_rarity

from pyterrier_csplade import ImpactIndex
from pyterrier_csplade.data.jsonl import read_jsonl
from pyterrier_csplade.index.search import POSTINGS_FILE, Postings, write_postings
from pyterrier_csplade.index.search.algorithm import algorithm
from pyterrier_csplade.index.search.guided import write_guide
from pyterrier_csplade.index.search.order import bisect, read_order, write_order
from pyterrier_csplade.index.search.term_counts import counts_source
from pyterrier_csplade.vectors.matrices import EncodedVectors


class Arrays:
    """Posting arrays without a Terrier index, for retrievers in place of an index and of its opened state."""

    memory = False

    def __init__(self, directory: Path) -> None:
        self.path = self.directory = directory
        self._postings = Postings(directory / POSTINGS_FILE)
        self.contract = self._postings.contract
        self.searcher = cache(lambda algorithm: algorithm.prepare(self._postings))

    def open(self) -> Arrays:
        """Return this object, as ``ImpactIndex.open`` returns an opened index."""
        return self

    def postings(self, *, verbose: bool = False) -> Postings:
        """Return the arrays, as ``ImpactIndex.postings`` does."""
        return self._postings


def timed(function: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def directory_megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def directory_megabytes_of(directory: Path, pattern: str) -> float:
    return sum(file.stat().st_size for file in directory.glob(pattern)) / 1e6


def build(vectors: EncodedVectors, output: Path, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Build postings, order and, for small collections, Terrier's index; return the index, and times and sizes."""
    terrier = len(vectors) <= args.terrier_up_to
    facts: dict[str, Any] = {"documents": len(vectors)}
    if terrier:
        index: Any = ImpactIndex(output / "impacts")
        if not index.built():
            facts["Terrier build s"], _ = timed(lambda: index.index_vectors(vectors, verbose=True))
        facts["Terrier MB"] = directory_megabytes(output / "impacts") - directory_megabytes_of(
            output / "impacts", "csplade_p*.bin"
        )
        facts["build s"], _ = timed(index.postings)
    else:
        (output / "arrays").mkdir(parents=True, exist_ok=True)
        if not (output / "arrays" / POSTINGS_FILE).exists():
            facts["build s"], _ = timed(lambda: write_postings(output / "arrays", vectors, verbose=True))
        index = Arrays(output / "arrays")
    postings = index.postings()
    if read_order(postings) is None:
        facts["reorder s"], order = timed(lambda: bisect(postings, verbose=True))
        write_order(postings, order)
    blocks, _ = timed(lambda: [algorithm("bmp", {"reordered": r}).prepare(postings) for r in (False, True)])
    count = len(postings.docids)
    facts |= {
        "postings": count,
        "blocks s": blocks,
        "bytes a posting": postings.file.path.stat().st_size / count,
        "with blocks": directory_megabytes_of(index.directory, "csplade_*.bin") * 1e6 / count,
    }
    return index, facts


def add_guides(index: Any, vectors: EncodedVectors, collection: Path | None) -> list[str]:
    """Add the guides of a collection; return their names."""
    if isinstance(vectors, StoredVectors):
        guides = {"noise": guide_of_noise(index.postings()), "rarity": guide_of_rarity(index.postings())}
        for guide, source in guides.items():
            write_guide(index.postings(), guide, source)
        return list(guides)
    if collection is not None:
        add_guide(index, collection)
        return ["bm25"]
    return []


def add_guide(index: Any, collection: Path) -> None:
    """Add BM25 over the model's own tokens."""
    from pyterrier_csplade import CSPLADE

    tokenizer = CSPLADE.tiny().backbone.tokenizer
    documents = (
        {"docno": row["docno"], "toks_tf": Counter(tokenizer.tokenize(f"{row.get('title', '')} {row['text']}"))}
        for _, row in read_jsonl(collection / "docs.jsonl.gz")
    )
    write_guide(index.postings(), "bm25", counts_source(index.postings(), documents, 0.9, 0.4))


#: Builds the postings of a synthetic collection; prints seconds and the peak of the process's anonymous memory in MB.
BUILD = """
import sys, tempfile, threading, time
from pathlib import Path
from synthetic import StoredVectors, SyntheticVectors
from pyterrier_csplade.index.search import write_postings

def own():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["RssAnon"].split()[0]) / 1e3

def watch():
    while True:
        peaks[0] = max(peaks[0], own())
        time.sleep(0.02)

vectors = StoredVectors(SyntheticVectors(int(sys.argv[1])), Path(sys.argv[2]))
next(vectors.blocks())
before = own()
peaks = [before]
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter(), time.process_time()
with tempfile.TemporaryDirectory() as directory:
    write_postings(Path(directory), vectors)
print(time.perf_counter() - start[0], time.process_time() - start[1], peaks[0], before)
"""


def cost_of_build(documents: int, vectors: Path) -> dict[str, float]:
    """Measure time and memory of building posting arrays of a synthetic collection, in its own process (Linux)."""
    command = [sys.executable, "-c", BUILD, str(documents), str(vectors.resolve())]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    names = ("build s", "build processor s", "peak MB of the build", "MB before")
    return dict(zip(names, map(float, done.stdout.split())))
