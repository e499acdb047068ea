"""Time and memory of building a Terrier index from texts or encoded documents, against PyTerrier's own indexer.

Usage: python benchmarks/indexing.py growth [--documents 10000 100000 200000] [--peer 10000] [--repeat 3]
       python benchmarks/indexing.py text COLLECTION [--documents 2000] [--repeat 3]

``growth`` indexes made-up documents of 150 terms each. ``text`` encodes the first documents of a directory with
``docs.jsonl.gz`` with csplade-tiny, and indexes them. The peer works like pyterrier-splade 0.1.0: it encodes batches in the
order of the texts, computes all logits of a batch, creates a dictionary for each document, and uses
``pt.IterDictIndexer(pretokenised=True)``.

Each measurement runs in its own process, the variants in turns; medians and ratios within a turn are reported. The clock starts
when Java is running, and models and made-up documents are in memory. CPU time includes Java's threads.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade import ImpactIndex
from pyterrier_csplade.vectors.impacts import to_vectors

TERMS, VOCABULARY, BLOCK = 150, 60_000, 10_000


class MadeUp:
    """Documents of ``TERMS`` terms, some of them much more frequent than others, with impacts of 60 on average."""

    contract = None

    def __init__(self, documents: int) -> None:
        rng = np.random.default_rng(0)
        self.vocabulary = [f"Ġterm{i}" for i in range(VOCABULARY)]
        sizes = [min(BLOCK, documents - start) for start in range(0, documents, BLOCK)]
        self._matrices = [self._block(rng, size) for size in sizes]
        self._documents = documents

    def __len__(self) -> int:
        return self._documents

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and impacts."""
        for number, matrix in enumerate(self._matrices):
            yield [f"d{number * BLOCK + row}" for row in range(matrix.shape[0])], matrix

    def dictionaries(self) -> Iterator[dict[str, Any]]:
        """Yield documents as an encoder does."""
        for docnos, matrix in self.blocks():
            for docno, toks in zip(docnos, to_vectors(matrix, self.vocabulary)):
                yield {"docno": docno, "toks": toks}

    def _block(self, rng: np.random.Generator, size: int) -> csr_matrix:
        quantiles = (np.arange(TERMS) + rng.random((size, TERMS))) / TERMS
        columns = (quantiles**2 * (VOCABULARY - TERMS)).astype(np.int32) + np.arange(TERMS, dtype=np.int32)
        impacts = np.clip(rng.lognormal(3.95, 0.55, (size, TERMS)), 1, 500).astype(np.int32)
        indptr = np.arange(size + 1) * TERMS
        return csr_matrix((impacts.ravel(), columns.ravel(), indptr), shape=(size, VOCABULARY))


def peer_indexer(directory: Path) -> Any:
    return pt.IterDictIndexer(str(directory), pretokenised=True, meta={"docno": 60})


def growth(way: str, documents: int, directory: Path) -> Callable[[], object]:
    made_up = MadeUp(documents)
    return {
        "index_vectors": lambda: ImpactIndex(directory).index_vectors(made_up),
        "toks": lambda: ImpactIndex(directory).index(made_up.dictionaries()),
        "peer": lambda: peer_indexer(directory).index(made_up.dictionaries()),
    }[way]


def read_texts(collection: str, documents: int) -> list[dict[str, str]]:
    with gzip.open(Path(collection) / "docs.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, documents)]
    return [{"docno": row["docno"], "text": f"{row.get('title', '')} {row['text']}".strip()} for row in rows]


def peers_encoder(batch_size: int = 32) -> pt.Transformer:
    """Make an encoder that runs csplade-tiny in a plain loop."""
    import torch
    import transformers

    import pyterrier_csplade

    path = Path(pyterrier_csplade.__file__).parent / "tiny"
    lm = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    terms = {number: term for term, number in tokenizer.get_vocab().items() if number not in tokenizer.all_special_ids}
    length = json.loads((path / "csplade_config.json").read_text())["document_length"]

    def encode(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = [row["text"] for row in batch]
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=length, add_special_tokens=False, return_tensors="pt"
        )
        with torch.no_grad():
            logits = lm(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
            weights = (torch.log1p(torch.relu(logits)) * tokens["attention_mask"][..., None]).amax(dim=1)
            impacts = (weights * 100).round().int()
        for row, vector in zip(batch, impacts):
            (columns,) = vector.nonzero(as_tuple=True)
            pairs = zip(columns.tolist(), vector[columns].tolist())
            row["toks"] = {terms[column]: impact for column, impact in pairs if column in terms}
        return batch

    def stream(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        while batch := list(islice(rows, batch_size)):
            yield from encode([dict(row) for row in batch])

    return stream  # type: ignore[return-value]


def text(way: str, documents: int, directory: Path, collection: str) -> Callable[[], object]:
    from pyterrier_csplade import CSPLADE

    rows = read_texts(collection, documents)
    if way == "peers' encoder, peer":
        encode: Any = peers_encoder()
        return lambda: peer_indexer(directory).index(encode(iter(rows)))
    encoder = CSPLADE.tiny().doc_encoder()
    encoder(rows[:1])  # loads the model
    if way == "our encoder alone":
        return lambda: sum(1 for _ in encoder.transform_iter(iter(rows)))
    if way == "our encoder, ImpactIndex":
        return lambda: (encoder >> ImpactIndex(directory)).index(iter(rows))
    encoded = list(encoder.transform_iter(iter(rows)))
    stream = ({"docno": row["docno"], "toks": row["toks"]} for row in encoded)
    if way == "encoded, ImpactIndex":
        return lambda: ImpactIndex(directory).index(stream)
    return lambda: peer_indexer(directory).index(stream)


WAYS = {
    "growth": ["index_vectors", "toks", "peer"],
    "text": [
        "encoded, ImpactIndex", "encoded, peer", "our encoder alone", "our encoder, ImpactIndex", "peers' encoder, peer",
    ],
}  # fmt: skip


def measure(arguments: argparse.Namespace) -> None:
    """Run one variant in this process and print time, memory and size."""
    with tempfile.TemporaryDirectory() as directory:
        build = globals()[arguments.what](arguments.way, arguments.size, Path(directory) / "index", *arguments.collection)
        if not pt.java.started():
            pt.java.init()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, cpu = time.perf_counter(), time.process_time()
        build()
        took = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        took["peak_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        took["size_mib"] = sum(file.stat().st_size for file in (Path(directory) / "index").glob("*")) / 2**20
    print(json.dumps(took))


def run(arguments: argparse.Namespace, way: str, size: int) -> dict[str, float]:
    command = [sys.executable, __file__, arguments.what, *arguments.collection, "--way", way, "--size", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["growth", "text"])
    parser.add_argument("collection", nargs="*")
    parser.add_argument("--documents", type=int, nargs="+")
    parser.add_argument("--peer", type=int, nargs="+", default=[10_000], help="sizes at which the peer runs (growth)")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        return measure(arguments)
    sizes = arguments.documents or ([10_000, 100_000, 200_000] if arguments.what == "growth" else [2_000])
    for size in sizes:
        ways = [way for way in WAYS[arguments.what] if way != "peer" or size in arguments.peer]
        runs = [[run(arguments, way, size) for way in ways] for _ in range(arguments.repeat)]
        for place, way in enumerate(ways):
            values = {name: statistics.median(turn[place][name] for turn in runs) for name in runs[0][0]}
            ratio = statistics.median(turn[-1]["cpu"] / turn[place]["cpu"] for turn in runs)
            print(
                f"{size:>9,} documents, {way:<26} {values['wall']:8.2f} s, {values['cpu']:8.2f} CPU s, "
                f"{1e6 * values['cpu'] / size:8.1f} CPU µs a document, {values['peak_mib']:6.0f} MiB more memory, "
                f"{values['size_mib']:6.0f} MiB index; {ways[-1]} takes {ratio:.2f} times the CPU time",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
