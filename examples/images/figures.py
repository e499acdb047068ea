"""Image heads for csplade-tiny on the figures of textbooks: six arms, and a table; see README.md beside this file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix, load_npz, save_npz

from pyterrier_csplade import CSPLADE, Quantizer
from pyterrier_csplade.data.directory import CollectionFiles
from pyterrier_csplade.images import EfficientNetLite0, open_picture
from pyterrier_csplade.images.measures import (
    co_activation,
    exact_ratio,
    flops,
    longest_list,
    relevant_ranks,
    retrieval_measures,
    semantic_deviation,
)
from pyterrier_csplade.storage.files import write_atomically
from pyterrier_csplade.training.images import ImagesConfig, PictureValidation, train_images
from pyterrier_csplade.training.own_tokens import OwnTokenFinder

TINY = Path(__file__).parents[2] / "pyterrier_csplade" / "tiny"
CONTROLS = ("none", "bernoulli", "gate")
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
# Active terms of a picture at the end.
TARGET = 100
# Pixels to which the pictures are enlarged for EfficientNet-Lite0.
SIZE = 96
COLUMNS = ("R@1", "R@10", "R@100", "RR@10", "terms", "flops", "longest_list", "co_activation", "deviation", "exact_ratio")


@dataclass
class Figures:
    """The collection, and vectors that are computed once and kept in the output directory."""

    data: Path
    output: Path
    seeds: int
    steps: int
    batch: int

    @cached_property
    def model(self) -> CSPLADE:
        """The text model."""
        return CSPLADE.tiny(batch_size=64, verbose=True)

    @cached_property
    def alt(self) -> dict[str, str]:
        """Alternative text of each picture."""
        return {document["docno"]: document["text"] for document in CollectionFiles(self.data).documents()}

    @cached_property
    def row(self) -> dict[str, int]:
        """Row of each picture in the arrays."""
        return {docno: int(docno[1:]) for docno in sorted(self.alt, key=lambda docno: int(docno[1:]))}

    def captions(self, split: str) -> tuple[list[str], list[int]]:
        """Captions of a split, and the rows of their pictures."""
        files = CollectionFiles(self.data)
        topics, qrels = files.topics(split), files.qrels(split)
        docno = dict(zip(qrels["qid"].astype(str), qrels["docno"]))
        return topics["query"].tolist(), [self.row[docno[qid]] for qid in topics["qid"].astype(str)]

    def kept(self, name: str, make: Callable[[], csr_matrix]) -> csr_matrix:
        """Return a matrix from the output directory, or make it."""
        path = self.output / f"{name}.npz"
        if not path.exists():
            temporary = path.with_name(f"unfinished-{path.name}")
            save_npz(temporary, make())
            temporary.rename(path)
        return load_npz(path)

    def queries(self, split: str) -> csr_matrix:
        """Query vectors of the captions of a split."""
        return self.kept(f"queries-{split}", lambda: self.model.encode_queries(self.captions(split)[0]))

    def texts(self, words: int | None = None) -> csr_matrix:
        """Impacts of the alternative texts, or of their first words."""
        texts = [" ".join(self.alt[docno].split()[:words]) for docno in self.row]
        return self.kept(f"texts-{words}", lambda: self.model.encode_docs(texts, quantizer=Quantizer()))

    @cached_property
    def lite0(self) -> np.ndarray:
        """Features of the pictures."""
        path = self.output / "lite0.npy"
        if not path.exists():
            features, images = EfficientNetLite0(size=SIZE), np.load(self.data / "images.npz")["images"]
            parts = [
                features([open_picture(image, "a picture") for image in images[start : start + 32]])
                for start in pt.tqdm(range(0, len(images), 32), desc="features", unit="batch")
            ]
            np.save(path, np.concatenate(parts))
        return np.load(path)

    @cached_property
    def lsa(self) -> np.ndarray:
        """The stand-in for image vectors."""
        return np.load(self.data / "dense.npz")["image"].astype(np.float32)

    def measured(self, pictures: csr_matrix, split: str = "test") -> dict[str, float]:
        """Measure vectors of all pictures with the captions of a split."""
        captions, relevant = self.captions(split)
        queries, backbone = self.queries(split), self.model.backbone
        sequences = backbone.tokenize(captions, "document")[0]
        own = OwnTokenFinder(backbone)(sequences, "document").matrix(len(captions), len(self.model.vocabulary))
        documents = self.kept(f"documents-{split}", lambda: self.model.encode_docs(captions))
        return {
            **retrieval_measures(relevant_ranks(queries, pictures, relevant)),
            "terms": pictures.nnz / pictures.shape[0],
            "flops": flops(queries, pictures),
            "longest_list": longest_list(pictures),
            "co_activation": co_activation(pictures),
            "deviation": semantic_deviation(pictures[relevant], documents),
            "exact_ratio": exact_ratio(queries, pictures, own, relevant),
        }

    def pairs(self, vectors: np.ndarray, name: str, split: str) -> str:
        """Write the pairs of a split for training; return the path."""
        path = self.output / f"pairs-{name}-{split}.jsonl"
        if not path.exists():
            rows = (
                json.dumps({"caption": caption, "image_vec": vectors[row].round(5).tolist()})
                for caption, row in zip(*self.captions(split))
            )
            write_atomically(path, ("\n".join(rows) + "\n").encode())
        return str(path)

    def pictures(self, name: str, control: str, seed: int) -> csr_matrix:
        """Train a head, and return the impacts of all pictures."""
        vectors, run = getattr(self, name), self.output / f"head-{name}-{control}-{seed}"
        if not (run / "image_head.safetensors").exists():
            config = ImagesConfig(
                model=str(TINY), data=self.pairs(vectors, name, "train"), output=str(run), steps=self.steps,
                batch_size=self.batch, control=control, target_nnz=TARGET, seed=seed, logging_steps=5, save_steps=20,
                report_to=[], most_co_activation=None, most_deviation=None,
                validation=PictureValidation(data=self.pairs(vectors, name, "dev"), steps=max(1, self.steps // 4)),
            )  # fmt: skip
            train_images(config, resume=True)
        records = [{"docno": docno, "image_vec": vectors[row]} for docno, row in self.row.items()]
        return self.kept(
            f"impacts-{name}-{control}-{seed}", lambda: self.model.image_encoder(run, batch_size=256).impacts(records)
        )


def bm25(figures: Figures) -> dict[str, float]:
    """Arm 1."""
    path = (figures.output / "bm25").absolute()
    index = pt.terrier.TerrierIndex(str(path))
    if not index.built():
        index.indexer(meta={"docno": 20}).index([{"docno": docno, "text": text} for docno, text in figures.alt.items()])
    captions, relevant = figures.captions("test")
    clean = ["".join(c if c.isalnum() else " " for c in caption) for caption in captions]
    topics = pd.DataFrame({"qid": [str(n) for n in range(len(clean))], "query": clean})
    found = index.bm25(num_results=1000)(topics)
    docnos, ranks = list(figures.row), np.full(len(captions), np.inf)
    for qid, docno, rank in zip(found["qid"], found["docno"], found["rank"]):
        if docno == docnos[relevant[int(qid)]]:
            ranks[int(qid)] = rank + 1
    return retrieval_measures(ranks)


def weighted(text: csr_matrix, pictures: csr_matrix, weight: float) -> csr_matrix:
    """The sum of impacts, rounded half up, as MergeToks makes it."""
    total = csr_matrix(text + weight * pictures)
    total.data = np.floor(total.data + 0.5).astype(np.int32)
    total.eliminate_zeros()
    return total


def merged(figures: Figures, text: csr_matrix, pictures: csr_matrix) -> dict[str, dict[str, float]]:
    """Merge texts and pictures by the maximum, and by a sum whose weight is chosen by RR@10 on the development captions."""
    found = {weight: figures.measured(weighted(text, pictures, weight), "dev")["RR@10"] for weight in WEIGHTS}
    best = max(found, key=lambda weight: found[weight])
    return {
        "max": figures.measured(csr_matrix(text.maximum(pictures))),
        f"sum {best:g}": figures.measured(weighted(text, pictures, best)),
    }


def arms(figures: Figures) -> Iterator[tuple[str, Callable[[], dict[str, dict[str, float]]]]]:
    """Yield the name of each arm, and a function that measures its systems."""
    yield "2 csplade-tiny, alternative text", lambda: {"": figures.measured(figures.texts())}
    for name, number in (("lsa", 4), ("lite0", 3)):
        for seed in range(figures.seeds):
            for control in CONTROLS:
                run = lambda n=name, c=control, s=seed: {"": figures.measured(figures.pictures(n, c, s))}  # noqa: E731
                yield f"{number} {name}, {control}, seed {seed}", run
        both = lambda n=name: merged(figures, figures.texts(), figures.pictures(n, "gate", 0))  # noqa: E731
        yield f"5 alternative text and {name}", both
        few = lambda n=name: merged(figures, figures.texts(5), figures.pictures(n, "gate", 0))  # noqa: E731
        yield f"6 five words and {name}", few
    yield "6 five words", lambda: {"": figures.measured(figures.texts(5))}
    yield "1 BM25, alternative text", lambda: {"": bm25(figures)}


def table(results: dict[str, dict[str, float]]) -> str:
    """Format the results, best read in a fixed-width font."""
    rows = [["system", *COLUMNS]]
    rows += [[name, *(f"{found[c]:.3f}" if c in found else "" for c in COLUMNS)] for name, found in sorted(results.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the arms that have no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory openstax-figures")
    parser.add_argument("output", type=Path, help="directory of results")
    parser.add_argument("--seeds", type=int, default=3, help="heads of each kind; default: %(default)s")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each head; default: %(default)s")
    parser.add_argument("--batch", type=int, default=256, help="pairs of a step; default: %(default)s")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the arms whose name begins with this")
    given = parser.parse_args(argv)
    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    figures = Figures(given.data, given.output, given.seeds, given.steps, given.batch)
    for name, run in arms(figures):
        if not name.startswith(given.only) or any(key.startswith(name) for key in results):
            continue
        results |= {f"{name} {kind}".strip(): found for kind, found in run().items()}
        write_atomically(file, (json.dumps(results, indent=1) + "\n").encode())
        write_atomically(given.output / "table.txt", (table(results) + "\n").encode())
    return results


if __name__ == "__main__":
    main()
