"""Image heads for csplade-tiny on the figures of textbooks: a table and two figures; see README.md beside this file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
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
from pyterrier_csplade.training.images import ImagesConfig, train_images
from pyterrier_csplade.training.images.pairs import Pairs, encode_pairs, read_pairs
from pyterrier_csplade.training.images.start import make_head
from pyterrier_csplade.training.images.trainer import HeadModel, picture_impacts

TINY = Path(__file__).parents[2] / "pyterrier_csplade" / "tiny"
CONTROLS = ("none", "bernoulli", "gate")
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
# Active terms of a picture at the end.
TARGET = 100
# Pixels to which the pictures are enlarged for EfficientNet-Lite0.
SIZE = 96
# Settings of all heads. The final weights are used instead of the best ones on the development pairs, which have more terms. At
# the temperature 3, the ridge start has a lower loss than at 1, 2 and 5. The teacher of the LSA vectors is their own cosine, as
# in arXiv 2402.17535. EfficientNet-Lite0 has no vectors of captions, so the text model is the teacher. From a lambda of 0.001,
# the controller does not reach its target in 40 steps (343 terms).
SETTINGS: dict[str, Any] = {
    "temperature": 3.0, "target_nnz": TARGET, "lambda_document": 0.2, "most_co_activation": None, "most_deviation": None,
}  # fmt: skip
TEACHERS: dict[str, dict[str, Any]] = {
    "lsa": {"teacher": "dense", "teacher_temperature": 0.1},
    "lite0": {"teacher": "text", "teacher_temperature": 10.0},
}
# A random start has more to learn. Its lambda is fixed, and equal for all controls, as in arXiv 2402.17535: with a target, the
# controls could not differ in sparsity.
RANDOM: dict[str, Any] = {"target_nnz": None, "lambda_document": 0.001}
RANDOM_STEPS = 3
COLUMNS = ("R@1", "R@10", "R@100", "RR@10", "terms", "flops", "longest_list", "co_activation", "deviation", "exact_ratio")


@dataclass(eq=False)
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

    @cache  # noqa: B019  # there is one object
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
        pairs, relevant = self.encoded("lsa", split), self.captions(split)[1]
        return {
            **retrieval_measures(relevant_ranks(pairs.queries, pictures, relevant)),
            "terms": pictures.nnz / pictures.shape[0],
            "flops": flops(pairs.queries, pictures),
            "longest_list": longest_list(pictures),
            "co_activation": co_activation(pictures),
            "deviation": semantic_deviation(pictures[relevant], pairs.documents),
            "exact_ratio": exact_ratio(pairs.queries, pictures, pairs.own, relevant),
        }

    def pairs(self, name: str, split: str) -> str:
        """Write the pairs of a split for training; return the path."""
        path = self.output / f"pairs-{name}-{split}.jsonl"
        if not path.exists():
            vectors, dense = getattr(self, name), np.load(self.data / "dense.npz")
            text, picture = (dense[side].astype(np.float64).round(4) for side in ("caption", "image"))
            rows = []
            for caption, row in zip(*self.captions(split)):
                teacher = {"teacher_caption": text[row].tolist(), "teacher_image": picture[row].tolist()}
                vector = vectors[row].astype(np.float64).round(5).tolist()
                rows.append({"caption": caption, "image_vec": vector, **(teacher if name == "lsa" else {})})
            write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        return str(path)

    @cache  # noqa: B019  # there is one object
    def encoded(self, name: str, split: str) -> Pairs:
        """Encoded pairs of a split."""
        return encode_pairs(read_pairs(self.pairs(name, split)), self.model, None, str(self.output / "cache"))

    def config(self, name: str, control: str, seed: int, start: str = "ridge") -> ImagesConfig:
        """The settings of a head."""
        own = {**SETTINGS, **(RANDOM if start == "random" else {}), **TEACHERS[name]}
        return ImagesConfig(
            model=str(TINY), data=self.pairs(name, "train"), output=str(self.run(name, control, seed, start)),
            cache=str(self.output / "cache"), steps=self.steps * (RANDOM_STEPS if start == "random" else 1), control=control,
            batch_size=self.batch, seed=seed, start=start, logging_steps=5, save_steps=20, report_to=[], **own,
        )  # fmt: skip

    def run(self, name: str, control: str, seed: int, start: str = "ridge") -> Path:
        """Directory of a head."""
        return self.output / f"head-{name}-{start}-{control}-{seed}"

    def pictures(self, name: str, control: str, seed: int, start: str = "ridge") -> csr_matrix:
        """Train a head, and return the impacts of all pictures."""
        run = self.run(name, control, seed, start)
        if not (run / "image_head.safetensors").exists():
            train_images(self.config(name, control, seed, start), resume=True)
        records = [{"docno": docno, "image_vec": getattr(self, name)[row]} for docno, row in self.row.items()]
        return self.kept(f"impacts-{run.name}", lambda: self.model.image_encoder(run, batch_size=256).impacts(records))

    def untrained(self, name: str) -> csr_matrix:
        """Return the impacts of all pictures from the initial head of a run."""
        pairs, backbone = self.encoded(name, "train"), self.model.backbone
        network = HeadModel(make_head(self.config(name, "none", 0), pairs, backbone), backbone)
        everything = replace(pairs, vectors=getattr(self, name)[list(self.row.values())])
        return self.kept(
            f"impacts-{name}-start", lambda: picture_impacts(network, everything, self.model.contract.impact_scale)
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
    """Return the sum of impacts, rounded half up, as MergeToks does."""
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


def ceilings(figures: Figures) -> dict[str, dict[str, float]]:
    """Arm 0: how well scores that are linear in the LSA vector of a picture can rank, without any sparsity.

    The captions' LSA vectors are regressed on the text model's vectors of the captions: on all terms, and on what the frozen LM
    head passes on. The strength of the ridge is chosen by R@100 on the development captions.
    """
    splits = {split: figures.encoded("lsa", split) for split in ("train", "dev", "test")}
    captions = unit_rows(np.load(figures.data / "dense.npz")["caption"].astype(np.float64))
    dense = {split: captions[figures.captions(split)[1]] for split in splits}
    pictures, backbone = unit_rows(figures.lsa.astype(np.float64)), figures.model.backbone
    rows = backbone.head.weight.detach().float().cpu()[backbone.columns.cpu()].numpy()

    def measured(split: str, vectors: np.ndarray) -> dict[str, float]:
        scores, relevant = vectors @ pictures.T, np.array(figures.captions(split)[1])
        own = scores[np.arange(len(relevant)), relevant]
        return retrieval_measures(1.0 + (scores > own[:, None]).sum(axis=1))

    found = {"LSA alone": measured("test", dense["test"])}
    for kind in ("queries", "documents"):
        for label, project in (("all terms", False), ("through the head", True)):
            inputs = {s: unit_rows(getattr(pairs, kind).toarray().astype(np.float64)) for s, pairs in splits.items()}
            inputs = {split: unit_rows(x @ rows) if project else x for split, x in inputs.items()}
            kernel, best = inputs["train"] @ inputs["train"].T, {}
            for strength in (0.03, 0.1, 0.3, 1.0, 3.0):
                solved = np.linalg.solve(kernel + strength * np.eye(len(kernel)), dense["train"])
                maps = {split: inputs[split] @ inputs["train"].T @ solved for split in ("dev", "test")}
                best[measured("dev", maps["dev"])["R@100"]] = measured("test", maps["test"])
            found[f"{kind} of captions, {label}"] = best[max(best)]
    return found


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def arms(figures: Figures) -> Iterator[tuple[str, Callable[[], dict[str, dict[str, float]]]]]:
    """Yield the name of each arm, and a function that measures its systems; the cheapest and most informative arms first."""

    def head(name: str, control: str, seed: int, start: str = "ridge") -> tuple[str, Callable[[], dict[str, dict[str, float]]]]:
        label = f"{4 if name == 'lsa' else 3} {name}, {control}{'' if start == 'ridge' else ', random start'}, seed {seed}"
        return label, lambda: {"": figures.measured(figures.pictures(name, control, seed, start))}

    def with_text(name: str, words: int | None) -> tuple[str, Callable[[], dict[str, dict[str, float]]]]:
        label = f"{5 if words is None else 6} {'alternative text' if words is None else 'five words'} and {name}"
        return label, lambda: merged(figures, figures.texts(words), figures.pictures(name, "gate", 0))

    for name in ("lsa", "lite0"):
        yield f"{4 if name == 'lsa' else 3} {name}, start", lambda n=name: {"": figures.measured(figures.untrained(n))}
        for control in CONTROLS:
            yield head(name, control, 0)
        yield with_text(name, 5)
        if name == "lsa":
            yield "6 five words alone", lambda: {"": figures.measured(figures.texts(5))}
            for control in CONTROLS:
                yield head(name, control, 0, "random")
    yield "2 csplade-tiny, alternative text", lambda: {"": figures.measured(figures.texts())}
    yield with_text("lsa", None)
    yield with_text("lite0", None)
    for seed in range(1, figures.seeds):
        for control in CONTROLS:
            yield head("lsa", control, seed)
            yield head("lsa", control, seed, "random")
            yield head("lite0", control, seed)
    yield "1 BM25, alternative text", lambda: {"": bm25(figures)}
    yield "0 ceiling", lambda: ceilings(figures)


def table(results: dict[str, dict[str, float]]) -> str:
    """Format the results for a fixed-width font."""
    rows = [["system", *COLUMNS]]
    rows += [[name, *(f"{found[c]:.3f}" if c in found else "" for c in COLUMNS)] for name, found in sorted(results.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def draw_co_activation(figures: Figures) -> None:
    """Draw co-activation over training for the heads of LSA vectors that are trained: mean and range of the seeds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for axis, start in zip(axes, ("ridge", "random")):
        for color, control in enumerate(CONTROLS):
            logs = [figures.run("lsa", control, seed, start) / "training_log.json" for seed in range(figures.seeds)]
            points = [p for log in logs if log.exists() for p in json.loads(log.read_text()) if "co_activation" in p]
            if points:
                curves = pd.DataFrame(points).groupby("step")["co_activation"]
                axis.fill_between(curves.min().index, curves.min(), curves.max(), color=f"C{color}", alpha=0.2)
                axis.plot(curves.mean().index, curves.mean(), color=f"C{color}", label=control)
        axis.set(xlabel="step", title=f"start: {start}")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="co-activation in a batch", ylim=(0, None))
    axes[0].legend(title="control")
    figure.savefig(figures.output / "co-activation.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw_terms(figures: Figures, name: str = "lsa", control: str = "gate", shown: int = 8) -> None:
    """Draw pictures of test captions, evenly chosen, with the ten strongest terms of their vectors."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = np.array(sorted(figures.captions("test")[1]))
    pictures = figures.pictures(name, control, 0)
    images, docnos = np.load(figures.data / "images.npz")["images"], list(figures.row)
    figure, axes = plt.subplots(2, shown // 2, figsize=(12, 6), layout="constrained")
    for axis, row in zip(axes.flat, rows[np.linspace(0, len(rows) - 1, shown).astype(int)]):
        found = pictures[row]
        order = np.argsort(-found.data, kind="stable")[:10]
        terms = [figures.model.vocabulary[column].replace("\u0120", "") for column in found.indices[order]]
        axis.imshow(images[row])
        axis.set_title(docnos[row], fontsize=9)
        axis.set_xlabel(", ".join(terms[:5]) + ",\n" + ", ".join(terms[5:]), fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.savefig(figures.output / "terms.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the arms that have no result yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="directory openstax-figures")
    parser.add_argument("output", type=Path, help="directory of results")
    parser.add_argument("--seeds", type=int, default=3, help="heads of each kind; default: %(default)s")
    parser.add_argument("--steps", type=int, default=40, help="steps of each head; default: %(default)s")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a step; default: %(default)s")
    parser.add_argument("--only", default="", metavar="TEXT", help="run only the arms whose names begin with this")
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
    draw_co_activation(figures)
    if (figures.run("lsa", "gate", 0) / "image_head.safetensors").exists():
        draw_terms(figures)
    return results


if __name__ == "__main__":
    main()
