"""Draws the figures of the documentation page on concepts, from the documentation of Python's standard library.

Usage: python benchmarks/figures.py [--step N] [--output DIRECTORY]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures import nDCG

from pyterrier_csplade import CSPLADE, ImpactIndex, PruneToks

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

FIGURES = Path(__file__).parents[1] / "pyterrier_csplade" / "pt_docs" / "figures"
SHOWN = "textwrap.wrap"
CUTS = (4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=4, help="every N-th document is used; default: %(default)s")
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    dataset = pt.get_dataset("csplade:python-docs")
    everything = pd.DataFrame(dataset.get_corpus_iter(verbose=False))
    corpus = everything.iloc[:: arguments.step].reset_index(drop=True)
    topics = dataset.get_topics()
    topics = topics[topics["qid"].isin(set(corpus["docno"]))].reset_index(drop=True)
    csplade = CSPLADE.tiny()
    encoded, queries = csplade.doc_encoder(verbose=True)(corpus), csplade.query_encoder()(topics)
    draw_expansion(csplade, everything.loc[everything["docno"] == SHOWN, "text"].iloc[0], arguments.output)
    draw_impacts(encoded, queries, arguments.output)
    draw_pruning(encoded, queries, dataset.get_qrels(), arguments.output)


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(path)


def draw_expansion(csplade: CSPLADE, text: str, output: Path) -> None:
    """Draw the heaviest terms of a document."""
    terms = list(csplade.decode(csplade.encode_docs([text])).items())[:30]
    own = set(csplade.backbone.tokenizer.tokenize(". " + text))
    figure, axis = plt.subplots(figsize=(8, 3.6), layout="constrained")
    axis.bar([term for term, _ in terms], [weight for _, weight in terms], color=["C0" if t in own else "C1" for t, _ in terms])
    axis.set(ylabel="weight", title=f"{SHOWN}: {text[:70]} ...")
    plt.setp(axis.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
    save(figure, output / "expansion.png")


def draw_impacts(encoded: pd.DataFrame, queries: pd.DataFrame, output: Path) -> None:
    """Draw histograms of impacts and of the lengths of vectors."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    impacts = np.concatenate([list(toks.values()) for toks in encoded["toks"]])
    axes[0].hist(impacts, bins=range(0, int(impacts.max()) + 5, 5))
    axes[0].set(xlabel="impact", ylabel="postings", yscale="log", title="impacts")
    for vectors, label in ((encoded["toks"], "documents"), (queries["query_toks"], "queries")):
        lengths = [len(vector) for vector in vectors]
        axes[1].hist(lengths, bins=range(0, max(lengths) + 5, 5), alpha=0.6, density=True, label=label)
    axes[1].set(xlabel="terms", ylabel="share", title="terms of a vector", yticks=[])
    axes[1].legend()
    save(figure, output / "impacts.png")


def draw_pruning(encoded: pd.DataFrame, queries: pd.DataFrame, qrels: pd.DataFrame, output: Path) -> None:
    """Draw effectiveness over the size of indexes that keep the heaviest terms."""
    points = []
    with tempfile.TemporaryDirectory() as directory:
        for k in (*CUTS, None):
            path = Path(directory, str(k))
            pruned = encoded if k is None else PruneToks(top_k=k)(encoded)
            index = ImpactIndex(path).index(pruned[["docno", "toks"]].to_dict("records"))
            size = sum(file.stat().st_size for file in path.glob("data.*")) / 1e6
            retriever = index.retriever(num_results=10, algorithm="exhaustive")
            value = pt.Experiment([retriever], queries, qrels, [nDCG @ 10])["nDCG@10"][0]
            points.append((size, value, "all" if k is None else str(k)))
    figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
    axis.plot([size for size, _, _ in points], [value for _, value, _ in points], marker="o")
    for size, value, label in points:
        axis.annotate(label, (size, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize="small")
    axis.set(xlabel="index (MB)", ylabel="nDCG@10", xlim=(0, None))
    axis.margins(y=0.15)
    axis.grid(alpha=0.3)
    save(figure, output / "pruning.png")


if __name__ == "__main__":
    main()
