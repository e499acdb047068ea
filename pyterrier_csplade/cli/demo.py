"""The command ``demo``: CSPLADE compared with BM25 on the documentation of the running Python."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyterrier as pt
from pyterrier.measures import RR, R, nDCG

from pyterrier_csplade._errors import CspladeError
from pyterrier_csplade.data.python_docs import PythonDocsDataset
from pyterrier_csplade.evaluation import plot_tradeoff
from pyterrier_csplade.index.index import ImpactIndex
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.pruning import PruneToks

from .terms import readable_terms

if TYPE_CHECKING:
    from pyterrier_csplade.model.csplade import CSPLADE


Say = Callable[[str], None]

BM25 = "BM25"
TINY = "csplade-tiny"
FUSION = f"{BM25} + {TINY}"
MEASURES = (nDCG @ 10, RR @ 10, R @ 100)
#: Documents that each system retrieves for a query, the largest cutoff of the measures.
DEPTH = 100
#: Numbers of heaviest terms of each document that the smaller indexes keep; our choice (not measured).
CUTS = (16, 64)

# Queries that are shown: well-known functions.
_SHOWN = ("textwrap.dedent", "shutil.which", "heapq.merge")

_PLAN = f"""\
This compares {TINY} with BM25 on the documentation of Python's standard library. Each query is the first line of a
docstring, and the rest of the docstring is its only relevant document. It takes 2 to 3 minutes on two cores. Nothing is
downloaded except Terrier's jars, when PyTerrier starts for the first time. The steps:
  1. read the docstrings                                         seconds
  2. index them for BM25                                         seconds
  3. encode them with {TINY} and index the vectors       1 to 2 minutes
  4. compare BM25, {TINY} and their fusion               half a minute
  5. show three queries, their expansions, and explanations of their first hits
  6. plot effectiveness against the size of the index
All files are written to"""

_NEXT = f"""\
Next steps: {TINY} is a small model to learn and experiment with. For real use, load a decoder-only language model that was
trained as CSPLADE, on a machine with a GPU. The weights of 8B parameters need 16 GB in bfloat16, about 9 GB with
quantization="int8" and 6 GB with "nf4":
    csplade = CSPLADE("meta-llama/Llama-3.1-8B", adapter="path/to/your/csplade-adapter", batch_size=8, verbose=True)
    index = ImpactIndex("scifact.csplade")
    (csplade.doc_encoder() >> index).index(pt.get_dataset("irds:beir/scifact").get_corpus_iter())
    retriever = csplade.query_encoder() >> index.retriever()
To train an adapter, run pyterrier-csplade adapt CONFIG, then pyterrier-csplade train CONFIG."""


def run_demo(csplade: CSPLADE, output: Path, *, say: Say, limit: int | None = None) -> pd.DataFrame:
    """Encode, index, compare, explain and plot.

    Args:
        csplade: The model.
        output: Directory of the indexes, the table and the plot. Results of an earlier demonstration are replaced.
        say: Prints each text for the user.
        limit: Number of documents, with their queries; None for all.

    Returns:
        The table, with one row each for BM25, CSPLADE and their fusion.

    Raises:
        CspladeError: The output cannot be written, or a step fails.
    """
    say(f"{_PLAN} {output}")
    output.mkdir(parents=True, exist_ok=True)
    _check_replaceable(output)
    dataset = PythonDocsDataset()
    topics, qrels = dataset.get_topics()[:limit], dataset.get_qrels()[:limit]
    documents = pd.DataFrame(islice(dataset.get_corpus_iter(verbose=False), limit))
    say(f"\n1. {len(documents):,} docstrings")

    say(f"\n2. {BM25}")
    # A step of its own, because the retriever would take some punctuation for its query language.
    bm25 = pt.rewrite.tokenise() >> index_bm25(documents, output / "bm25").bm25(num_results=DEPTH)

    say(f"\n3. {TINY}")
    encoded = csplade.doc_encoder(verbose=True)(documents)
    index = _index_impacts(encoded, output / TINY)

    say("\n4. Comparison (mrt: mean response time per query, in ms)")
    tiny = csplade.query_encoder() >> index.retriever(num_results=DEPTH)
    systems = {BM25: bm25, TINY: tiny, FUSION: fuse(bm25, tiny)}
    table = pt.Experiment(systems, topics, qrels, [*MEASURES, "mrt"], verbose=True)
    table = table[["name", *map(str, MEASURES), "mrt"]]
    table.to_csv(output / "results.csv", index=False)
    say(_format(table))

    say("\n5. Three queries ([+term]: not in the query; -ing: continues a word)")
    for qid, query in _shown(topics)[["qid", "query"]].to_numpy():
        say(_explanation(csplade, tiny, qid, query, documents))

    say("\n6. Effectiveness and size (top k: only the k heaviest terms of each document)")
    points = _tradeoff(encoded, csplade.query_encoder()(topics), qrels, output, table)
    say(_format(points))
    picture = output / "effectiveness_size.png"
    plot_tradeoff(points, picture, measures=[str(MEASURES[0])], cost="MB", title="Documentation of Python's standard library")
    say(f"\nWritten: {picture}, {output / 'results.csv'} and the indexes beside them.\n\n{_NEXT}")
    return table


def _format(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format="{:.3f}".format)


def fuse(*systems: pt.Transformer) -> pt.Transformer:
    """Add up the scores of systems, each divided by the best score of the query.

    Only the maximum normalises, since the lowest score of a ranking depends on its length. The weights are equal; our choice
    (not measured), since there are no other queries to tune them on. A document that a system does not retrieve scores 0.
    """
    normalised = [system >> pt.apply.generic(_divide_by_best, label="/ best score") for system in systems]
    return sum(normalised[1:], normalised[0])


def _divide_by_best(results: pd.DataFrame) -> pd.DataFrame:
    # A best score of 0 gives NaN, which the sum takes as 0. Other columns, such as query_toks, are dropped.
    best = results["score"].abs().groupby(results["qid"]).transform("max")
    return results[["qid", "docno", "rank"]].assign(score=results["score"] / best)


def index_bm25(documents: pd.DataFrame, path: Path) -> pt.terrier.TerrierIndex:
    """Index texts with Terrier's defaults (Porter stemmer, stop words), replacing what is there.

    Args:
        documents: ``docno`` and ``text``.
        path: Directory of the index.
    """
    with workspace(path.absolute()) as directory:
        indexer = pt.IterDictIndexer(str(directory / "index"), meta={"docno": int(documents["docno"].str.len().max())})
        indexer.index(pt.tqdm(documents.to_dict("records"), desc=BM25, unit="d"))
        publish(directory / "index", path.absolute())
    return pt.terrier.TerrierIndex(str(path))


def _check_replaceable(output: Path) -> None:
    for path in (output / "bm25", output / TINY, *_cut_paths(output).values()):
        if path.exists() and not (path / "data.properties").exists():
            raise CspladeError(f"{path} is not an index of an earlier demonstration: choose another output directory")


def _cut_paths(output: Path) -> dict[int, Path]:
    return {k: output / f"{TINY}-top{k}" for k in CUTS}


def _index_impacts(documents: pd.DataFrame, path: Path) -> ImpactIndex:
    indexer = ImpactIndex(path).toks_indexer(overwrite=True, verbose=True)
    return indexer.index(documents[["docno", "toks"]].to_dict("records"))


def _tradeoff(
    encoded: pd.DataFrame, queries: pd.DataFrame, qrels: pd.DataFrame, output: Path, table: pd.DataFrame
) -> pd.DataFrame:
    """Build and measure the pruned indexes, and add the full indexes from the table."""
    measure = str(MEASURES[0])
    paths, systems = _cut_paths(output), {}
    for k, path in paths.items():
        systems[f"top {k}"] = _index_impacts(PruneToks(top_k=k)(encoded), path).retriever(
            num_results=MEASURES[0].params["cutoff"]
        )
    values = pt.Experiment(systems, queries, qrels, [MEASURES[0]])[measure]
    found = dict(zip(table["name"], table[measure]))
    rows = [
        (BM25, BM25, directory_size(output / "bm25"), found[BM25]),
        *((TINY, label, directory_size(path), value) for label, path, value in zip(systems, paths.values(), values)),
        (TINY, "all terms", directory_size(output / TINY), found[TINY]),
    ]
    return pd.DataFrame(rows, columns=["system", "label", "MB", measure])


def directory_size(path: Path) -> float:
    """Return the size of all files below a directory, in MB (10**6 bytes)."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def _shown(topics: pd.DataFrame) -> pd.DataFrame:
    known = topics[topics["qid"].isin(_SHOWN)]
    return known if len(known) == len(_SHOWN) else topics.head(len(_SHOWN))


def _explanation(csplade: CSPLADE, retriever: pt.Transformer, qid: str, query: str, documents: pd.DataFrame) -> str:
    """Describe a query, its expansion, and the terms that contribute most to the score of its first hit."""
    expansion = csplade.decode(csplade.encode_queries([query]))
    lines = [f"\nquery: {query}", f"  expansion: {readable_terms(csplade, expansion, query, '.2f')}"]
    hits = retriever.search(query, qid)["docno"].tolist()
    if not hits:
        return "\n".join([*lines, "  nothing found"])
    text = documents.loc[documents["docno"] == hits[0], "text"].item()
    contributions = csplade.explain(query, text)
    shares = {term: value / sum(contributions.values()) for term, value in contributions.items()}
    place = f"at rank {hits.index(qid) + 1}" if qid in hits else "not found"
    judged = "relevant" if hits[0] == qid else f"not relevant; {qid} is {place}"
    lines.append(f"  first hit: {hits[0]} ({judged}): {textwrap.shorten(text, 80)}")
    lines.append(f"  its score: {readable_terms(csplade, shares, query, '.0%')}")
    return "\n".join(lines)
