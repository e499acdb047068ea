"""The command ``demo``: CSPLADE compared with BM25 on the documentation of the running Python."""

from __future__ import annotations

import math
import tempfile
import textwrap
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt
from pyterrier.measures import RR, R, nDCG

from pyterrier_csplade._errors import CspladeError
from pyterrier_csplade.data.python_docs import PythonDocsDataset
from pyterrier_csplade.data.queries import suggested_queries
from pyterrier_csplade.data.sources import Source
from pyterrier_csplade.evaluation import plot_tradeoff
from pyterrier_csplade.fusion import hybrid
from pyterrier_csplade.index.index import ImpactIndex
from pyterrier_csplade.queries.content import TABLE_FILE
from pyterrier_csplade.queries.table import QueryTable
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.pruning import PruneToks

from .arguments import Say
from .terms import readable_terms

if TYPE_CHECKING:
    from pyterrier_csplade.model.csplade import CSPLADE


BM25 = "BM25"
SMALL, TINY = "csplade-small", "csplade-tiny"
MEASURES = (nDCG @ 10, RR @ 10, R @ 100)
#: Name of the query table's directory.
TABLE = "query-table"
#: Number of documents to retrieve for a query, the largest cutoff of the measures.
DEPTH = 100
#: Number of heaviest terms per document in the pruned indexes; our choice (not measured).
CUTS = (16, 64)

# Number of first sentences that the query table is made from; our choice (not measured).
_SENTENCES = 1000
# Number of words of the queries to show, because shorter and longer ones show little; our choice (not measured).
_WORDS = range(4, 11)

# Smallest share of a score to show, which is rounded to 1%.
_SHARE = 0.005

_PLAN = """\
This demonstration compares {name} with BM25 on the documentation of Python's standard library. Each query is the first line
of a docstring, and the rest of the docstring is its only relevant document. It takes {minutes} minutes on two cores. The steps:
  1. read the docstrings
  2. index them for BM25
  3. encode them with {name} and index the vectors, which takes most of the time
  4. compare BM25, {name}, the sum of their normalised scores, and {name} with a query table, which searches its index
     without a language model
  5. show three queries, their expansions, and explanations of their first hits
  6. plot effectiveness against the size of the index
All files are written to {output}"""

# Minutes of the demonstration on two cores.
_MINUTES = {TINY: "2 to 3", SMALL: "2 to 3"}

_NEXT = """\
Next steps: {name} is a small model to learn and experiment with. For real use, load a decoder-only language model that was
trained as CSPLADE, on a machine with a GPU. The weights of 8B parameters need 16 GB in bfloat16, about 9 GB with
quantization="int8" and 6 GB with "nf4":
    csplade = CSPLADE("meta-llama/Llama-3.1-8B", adapter="path/to/your/csplade-adapter", batch_size=8, verbose=True)
    index = ImpactIndex("scifact.csplade")
    (csplade.doc_encoder() >> index).index(pt.get_dataset("irds:beir/scifact").get_corpus_iter())
    retriever = csplade.query_encoder() >> index.retriever()
To train an adapter, run pyterrier-csplade adapt CONFIG, then pyterrier-csplade train CONFIG. The query table searches without
torch:
    pyterrier-csplade search {index} "read a zip file" --model {table}
For your own index, QueryTable.fit(csplade, queries).save("my.table") makes such a table."""


def available_model(say: Say) -> tuple[CSPLADE, str]:
    """Return csplade-small and its name if it is available; otherwise print the reason, and return csplade-tiny."""
    from pyterrier_csplade.model.assembly import BASE_OF_SMALL
    from pyterrier_csplade.model.bases import fetch_base
    from pyterrier_csplade.model.csplade import CSPLADE

    try:
        fetch_base(BASE_OF_SMALL)
    except CspladeError as error:
        say(f"Using {TINY}, because {SMALL} is not available: {error}\n")
        return CSPLADE.tiny(), TINY
    return CSPLADE.small(), SMALL


def run_demo(csplade: CSPLADE, output: Path, *, name: str, say: Say, limit: int | None = None) -> pd.DataFrame:
    """Encode, index, compare, explain and plot.

    Args:
        csplade: The model.
        output: Directory for the indexes, the query table, the results and the plot. Those of an earlier demonstration are
            replaced.
        name: Name of the model in texts and files.
        say: Prints a text for the user.
        limit: Number of documents and queries; None for all.

    Returns:
        The results, with a row each for BM25, CSPLADE, their fusion, and CSPLADE with a query table.

    Raises:
        CspladeError: The output cannot be written, or a step fails.
    """
    say(_PLAN.format(name=name, minutes=_MINUTES.get(name, "a few"), output=output))
    output.mkdir(parents=True, exist_ok=True)
    _check_replaceable(output, name)
    dataset = PythonDocsDataset()
    topics, qrels = dataset.get_topics()[:limit], dataset.get_qrels()[:limit]
    documents = pd.DataFrame(islice(dataset.get_corpus_iter(verbose=False), limit))
    say(f"\n1. {len(documents):,} docstrings")

    say(f"\n2. {BM25}")
    # Tokenised first, because the retriever would interpret some punctuation as its query language.
    bm25 = pt.rewrite.tokenise() >> index_bm25(documents, output / "bm25").bm25(num_results=DEPTH)

    say(f"\n3. {name}")
    encoded = csplade.doc_encoder(verbose=True)(documents)
    index = _index_impacts(encoded, output / name)

    say("\n4. Comparison (mrt: mean response time per query, in ms)")
    learned = csplade.query_encoder() >> index.retriever(num_results=DEPTH)
    fused = hybrid(bm25, learned, method="minmax", num_results=DEPTH)
    cheap = _query_table(csplade, documents, output / TABLE) >> index.retriever(num_results=DEPTH)
    systems = {BM25: bm25, name: learned, f"{BM25} + {name}": fused, f"{name}, query table": cheap}
    table, ranks = _compare(systems, topics, qrels)
    table.to_csv(output / "results.csv", index=False)
    say(f"{_format(table)}\n{_wins(ranks, name)}")

    say("\n5. Three queries ([+term]: not in the query; -ing: continues a word)")
    for (qid, query), why in _shown(topics, ranks, name):
        say(_explanation(csplade, learned, qid, query, documents, why))

    say("\n6. Effectiveness and size (top k: only the k heaviest terms of each document)")
    points = _tradeoff(encoded, csplade.query_encoder()(topics), qrels, output, table)
    say(_format(points))
    picture = output / "effectiveness_size.png"
    plot_tradeoff(points, picture, measures=[str(MEASURES[0])], cost="MB", title="Documentation of Python's standard library")
    following = _NEXT.format(name=name, index=output / name, table=output / TABLE)
    say(f"\nWritten: {picture}, {output / 'results.csv'}, and the indexes and the query table beside them.\n\n{following}")
    return table


def _compare(
    systems: dict[str, pt.Transformer], topics: pd.DataFrame, qrels: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run each system once.

    Returns:
        The table of measures; and the rank of the relevant document by query (the index) and system, counted from 1, or NaN if
        it was not found.
    """
    with tempfile.TemporaryDirectory() as runs:
        table = pt.Experiment(systems, topics, qrels, [*MEASURES, "mrt"], verbose=True, save_dir=runs)
        found = {name: pt.io.read_results(str(Path(runs) / f"{name}.res.gz")) for name in systems}
    relevant = qrels[qrels["label"] > 0][["qid", "docno"]]
    ranks = {
        name: relevant.merge(run, on=["qid", "docno"], how="left").set_index("qid")["rank"] + 1 - pt.model.FIRST_RANK
        for name, run in found.items()
    }
    return table[["name", *map(str, MEASURES), "mrt"]], pd.DataFrame(ranks)


def _wins(ranks: pd.DataFrame, name: str) -> str:
    """Describe for how many queries each system ranks the relevant document higher."""
    bm25, learned = ranks[BM25].fillna(math.inf), ranks[name].fillna(math.inf)
    return (
        f"{name} ranks the answer higher than {BM25} for {(learned < bm25).sum():,} queries, {BM25} for "
        f"{(bm25 < learned).sum():,}; for {(learned == bm25).sum():,} the rank is the same."
    )


def _format(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False, float_format="{:.3f}".format)


def index_bm25(documents: pd.DataFrame, path: Path) -> pt.terrier.TerrierIndex:
    """Index texts with Terrier's defaults (Porter stemmer, stop words). An existing index is replaced."""
    with workspace(path.absolute()) as directory:
        indexer = pt.IterDictIndexer(str(directory / "index"), meta={"docno": int(documents["docno"].str.len().max())})
        indexer.index(pt.tqdm(documents.to_dict("records"), desc=BM25, unit="d"))
        publish(directory / "index", path.absolute())
    return pt.terrier.TerrierIndex(str(path))


def _check_replaceable(output: Path, name: str) -> None:
    indexes = (output / "bm25", output / name, *_cut_paths(output, name).values())
    for path, file in (*((path, "data.properties") for path in indexes), (output / TABLE, TABLE_FILE)):
        if path.exists() and not (path / file).exists():
            raise CspladeError(f"{path} is not from an earlier demonstration: choose another output directory")


def _cut_paths(output: Path, name: str) -> dict[int, Path]:
    return {k: output / f"{name}-top{k}" for k in CUTS}


def _index_impacts(documents: pd.DataFrame, path: Path) -> ImpactIndex:
    indexer = ImpactIndex(path).toks_indexer(overwrite=True, verbose=True)
    return indexer.index(documents[["docno", "toks"]].to_dict("records"))


def _query_table(csplade: CSPLADE, documents: pd.DataFrame, path: Path) -> QueryTable:
    """Make a query table from the first sentences of documents, since there are no training queries."""
    records: list[Any] = documents.to_dict("records")
    source = Source("the docstrings", lambda: records, lambda: len(records))
    table = QueryTable.fit(csplade, suggested_queries(source, ["text"], _SENTENCES))
    table.save(path)
    return table


def _tradeoff(
    encoded: pd.DataFrame, queries: pd.DataFrame, qrels: pd.DataFrame, output: Path, table: pd.DataFrame
) -> pd.DataFrame:
    """Build and measure the pruned indexes, and add the values of the full indexes from the table."""
    measure, name = str(MEASURES[0]), table["name"].iloc[1]
    paths, systems = _cut_paths(output, name), {}
    for k, path in paths.items():
        systems[f"top {k}"] = _index_impacts(PruneToks(top_k=k)(encoded), path).retriever(
            num_results=MEASURES[0].params["cutoff"]
        )
    values = pt.Experiment(systems, queries, qrels, [MEASURES[0]])[measure]
    found = dict(zip(table["name"], table[measure]))
    rows = [
        (BM25, BM25, directory_size(output / "bm25"), found[BM25]),
        *((name, label, directory_size(path), value) for label, path, value in zip(systems, paths.values(), values)),
        (name, "all terms", directory_size(output / name), found[name]),
    ]
    return pd.DataFrame(rows, columns=["system", "label", "MB", measure])


def directory_size(path: Path) -> float:
    """Return the size of all files below a directory, in MB (10**6 bytes)."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def _shown(topics: pd.DataFrame, ranks: pd.DataFrame, name: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Choose two queries for which the model is better than BM25 by the largest margin, and one for which BM25 is better.

    Of equal margins, short queries come first.

    Yields:
        qid and query, and the name of the better system; "" if too few queries differ.
    """
    reciprocal = 1 / ranks
    margin = (reciprocal[name].fillna(0) - reciprocal[BM25].fillna(0)).reindex(topics["qid"]).to_numpy()
    words = topics["query"].map(lambda query: len(query.split()))
    order = topics.assign(margin=margin, words=words, unfit=~words.isin(_WORDS)).sort_values(["unfit", "words"], kind="stable")
    better = order[order["margin"] > 0].sort_values("margin", ascending=False, kind="stable")[:2]
    worse = order[order["margin"] < 0].sort_values("margin", kind="stable")[:1]
    others = order[~order["qid"].isin([*better["qid"], *worse["qid"]])][: 3 - len(better) - len(worse)]
    for rows, why in ((better, f"{name} is better"), (worse, f"{BM25} is better"), (others, "")):
        yield from (((qid, query), why) for qid, query in rows[["qid", "query"]].itertuples(index=False))


def _explanation(
    csplade: CSPLADE, retriever: pt.Transformer, qid: str, query: str, documents: pd.DataFrame, why: str = ""
) -> str:
    """Describe a query, its expansion, and the contributions of terms to the score of its first hit."""
    expansion = csplade.decode(csplade.encode_queries([query]))
    lines = [
        f"\nquery: {query}{f' ({why})' if why else ''}",
        f"  expansion: {readable_terms(csplade, expansion, query, '.2f')}",
    ]
    hits = retriever.search(query, qid)["docno"].tolist()
    if not hits:
        return "\n".join([*lines, "  nothing found"])
    text = documents.loc[documents["docno"] == hits[0], "text"].item()
    contributions = csplade.explain(query, text)
    score = sum(contributions.values())
    shares = {term: value / score for term, value in contributions.items() if value >= _SHARE * score}
    place = f"at rank {hits.index(qid) + 1}" if qid in hits else "not found"
    judged = "relevant" if hits[0] == qid else f"not relevant; {qid} is {place}"
    lines.append(f"  first hit: {hits[0]} ({judged}): {textwrap.shorten(text, 80)}")
    lines.append(f"  its score: {readable_terms(csplade, shares, query, '.0%')}")
    return "\n".join(lines)
