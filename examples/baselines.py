"""The baselines of a paper in one table: BM25, RM3, CSPLADE, hybrids and re-ranking over any collection.

Usage: python baselines.py DATASET --output DIR [--model M ...] [--dev NAME]

DATASET is a directory (docs.jsonl.gz, topics.tsv, qrels.txt and, for tuning, topics.dev.tsv and qrels.dev.txt; or TREC's
documents, topics and qrels), an ir_datasets id, or a PyTerrier dataset. DIR gets the encodings and indexes, a run of each
system in TREC's format, and the table as results.csv, results.md and results.tex. Existing files are kept: run the same command
again after an interruption, or with further models. A run is made again if its settings or the queries have changed; another
collection needs another DIR.

Latency is the time of all queries, including encoding, divided by their number. It is measured when a run is made. Index size
is the size of the files that a system searches. A dagger marks a difference from BM25 at the 5 % level (paired t-test with
Holm's correction).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
from ir_measures import parse_measure

from pyterrier_csplade import CSPLADE, CspladeError, EncodedCollection, ImpactIndex, hybrid
from pyterrier_csplade.data import Source, open_source, read_qrels, read_topics

BM25 = "BM25"


@dataclass
class System:
    """A row of the table.

    Attributes:
        name: Its name in the table.
        pipeline: Retrieves documents for queries.
        paths: The indexes that it searches.
        settings: All settings that its results depend on, besides the collection and the queries.
    """

    name: str
    pipeline: pt.Transformer
    paths: tuple[Path, ...]
    settings: dict[str, Any]

    @property
    def megabytes(self) -> float:
        """Size of the files that are searched."""
        files = {file for path in self.paths for file in path.glob("data.*")}
        return sum(file.stat().st_size for file in files) / 1e6

    @property
    def file_name(self) -> str:
        """Return the name of a system as the name of a file."""
        return "".join(character if character.isalnum() or character in ".-" else "_" for character in self.name)


def main() -> None:
    arguments = parse_arguments()
    pt.java.set_log_level("ERROR")  # RM3 warns about each query without a term to add
    output: Path = arguments.output.absolute()
    (output / "runs").mkdir(parents=True, exist_ok=True)
    check_output(output, {"dataset": arguments.dataset, "fields": arguments.fields})
    source = open_source(arguments.dataset)
    topics = read_topics(arguments.topics or arguments.dataset, split=arguments.split)[["qid", "query"]]
    qrels = read_qrels(arguments.qrels or arguments.dataset, split=arguments.split)
    topics = topics[topics["qid"].isin(set(qrels["qid"]))].reset_index(drop=True)
    print(f"{source.count():,} documents, {len(topics):,} judged queries", flush=True)
    tune = None
    if arguments.dev:
        tune = (
            read_topics(arguments.topics or arguments.dataset, split=arguments.dev)[["qid", "query"]],
            read_qrels(arguments.qrels or arguments.dataset, split=arguments.dev),
        )
    systems = list(make_systems(source, arguments, output, tune))
    runs, latency = {}, {}
    for system in systems:
        runs[system.name], latency[system.name] = run(system, topics, output / "runs")
    table = compare(systems, runs, latency, topics, qrels, arguments.measures)
    write(table, output)
    print(table.to_string(index=False))
    print(f"table: {arguments.output}/results.csv, results.md and results.tex; runs: {arguments.output}/runs")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="directory, ir_datasets id or PyTerrier dataset")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["csplade-tiny"], help="directories or hub ids; default: csplade-tiny")
    parser.add_argument("--fields", nargs="+", default=["text"], help="fields of documents that form the text; default: text")
    parser.add_argument("--topics", help="queries; default: the queries of the dataset")
    parser.add_argument("--qrels", help="judgements; default: the judgements of the dataset")
    parser.add_argument("--split", help="split of topics and judgements; default: the test split")
    parser.add_argument("--dev", help="split on which the weights of a min-max hybrid are tuned")
    parser.add_argument("--depth", type=int, default=1000, help="documents per query; default: %(default)s")
    parser.add_argument(
        "--rerank", type=int, default=100, help="documents to re-rank, or 0 for no re-ranking; default: %(default)s"
    )
    parser.add_argument(
        "--measures", nargs="+", type=parse_measure, default=list(map(parse_measure, ("nDCG@10", "RR@10", "R@100")))
    )
    arguments = parser.parse_args()
    names = [Path(model).name for model in arguments.model]
    if twice := {name for name in names if names.count(name) > 1}:
        parser.error(f"two models are called {twice.pop()}: rename the directory of one")
    return arguments


def check_output(output: Path, collection: dict[str, Any]) -> None:
    """Refuse a directory with the indexes of another collection."""
    note = output / "collection.json"
    if not note.exists():
        note.write_text(json.dumps(collection) + "\n", encoding="utf-8")
    elif (found := json.loads(note.read_text(encoding="utf-8"))) != collection:
        raise CspladeError(f"{output} belongs to {found}, not to {collection}: choose another --output")


def make_systems(
    source: Source, arguments: argparse.Namespace, output: Path, tune: tuple[pd.DataFrame, pd.DataFrame] | None
) -> Iterator[System]:
    """Build the indexes that are missing, and yield the systems."""
    words_path = output / "bm25"
    index_words(source, arguments.fields, words_path)
    words = pt.terrier.TerrierIndex(str(words_path))
    # Tokenised, because Terrier would interpret some characters as its query language.
    bm25 = pt.rewrite.tokenise() >> words.bm25(num_results=arguments.depth)
    depth = {"depth": arguments.depth}
    yield System(BM25, bm25, (words_path,), depth)
    yield System(f"{BM25} + RM3", bm25 >> words.rm3() >> words.bm25(num_results=arguments.depth), (words_path,), depth)
    for named in arguments.model:
        csplade = CSPLADE.tiny() if named == "csplade-tiny" else CSPLADE(named)
        name = Path(named).name
        index = index_vectors(csplade, source, arguments.fields, output, name)
        learned = csplade.query_encoder() >> index.retriever(num_results=arguments.depth, algorithm="exhaustive")
        made_by = {**depth, "model": identity(named)}
        yield System(name, learned, (Path(index.path),), made_by)
        paths = (words_path, Path(index.path))
        yield System(f"{BM25} & {name}, RRF", hybrid(bm25, learned, num_results=arguments.depth), paths, made_by)
        if tune is not None:
            weights = tuned_weights(bm25, learned, *tune)
            print(f"tuned weights of {BM25} and {name}: {weights}", flush=True)
            weighted = hybrid(bm25, learned, method="minmax", weights=weights, num_results=arguments.depth)
            yield System(f"{BM25} & {name}, min-max", weighted, paths, {**made_by, "weights": list(weights)})
        if arguments.rerank:
            shown = bm25 % arguments.rerank >> index.text_loader(["text"]) >> pt.rewrite.reset()
            reranked = {**made_by, "rerank": arguments.rerank}
            yield System(f"{BM25} >> {name}", shown >> csplade.scorer(), (words_path,), reranked)


def identity(model: str) -> str:
    """Return an identifier of a model: the digest of a directory's contract, or the name."""
    contract = Path(model, "csplade_config.json")
    return hashlib.sha256(contract.read_bytes()).hexdigest() if contract.is_file() else model


def index_words(source: Source, fields: list[str], path: Path) -> None:
    """Build the BM25 index beside its path, and move it to the path when it is complete."""
    if path.exists():
        return
    building = path.with_name(f"{path.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    length = max(len(document["docno"]) for document in source.documents(fields, "text"))
    indexer = pt.IterDictIndexer(str(building), meta={"docno": length})
    indexer.index(pt.tqdm(source.documents(fields, "text"), desc=BM25, total=source.count(), unit="d"))
    building.rename(path)


def index_vectors(csplade: CSPLADE, source: Source, fields: list[str], output: Path, name: str) -> ImpactIndex:
    """Encode the documents, or resume their encoding, and index the vectors."""
    vectors = EncodedCollection(output / f"{name}.vectors")
    if not vectors.built():
        vectors.encode(csplade.doc_encoder(), source.documents(fields, csplade.text_field), verbose=True)
    index = ImpactIndex(output / f"{name}.index")
    if not index.built():
        texts = (document["text"] for document in source.documents(fields, "text"))
        index.index_vectors(vectors, meta={"text": texts}, verbose=True)
    return index


def tuned_weights(
    bm25: pt.Transformer, learned: pt.Transformer, topics: pd.DataFrame, qrels: pd.DataFrame
) -> tuple[float, float]:
    """Return the weights of a min-max hybrid that are best on validation queries. Each system runs once."""
    topics = topics[topics["qid"].isin(set(qrels["qid"]))]
    candidate = hybrid(*(pt.Transformer.from_df(system(topics)) for system in (bm25, learned)), method="minmax")
    grid = {candidate: {"weights": [(step / 10, 1 - step / 10) for step in range(11)]}}
    best: tuple[float, float] = pt.GridSearch(candidate, grid, topics, qrels, metric="ndcg_cut_10", verbose=False).weights
    return best


def run(system: System, topics: pd.DataFrame, directory: Path) -> tuple[pd.DataFrame, float]:
    """Return results and milliseconds per query, from the files of an earlier run if it had the same settings."""
    path, note = directory / f"{system.file_name}.run.gz", directory / f"{system.file_name}.json"
    queries = hashlib.sha256(topics.to_csv(index=False).encode()).hexdigest()
    made: dict[str, Any] = {"system": system.name, "settings": system.settings, "queries": queries}
    known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if not path.exists() or {**known, **made} != known:
        note.unlink(missing_ok=True)  # it is written when the run is complete
        system.pipeline(topics.head(2))  # loads the model and opens the index
        start = time.perf_counter()
        results = system.pipeline(topics)
        milliseconds = 1000 * (time.perf_counter() - start) / len(topics)
        pt.io.write_results(results, str(path), run_name=system.file_name)
        known = {**made, "ms per query": milliseconds}
        note.write_text(json.dumps(known) + "\n", encoding="utf-8")
    results = pt.io.read_results(str(path)).astype({"qid": str, "docno": str})
    return results, known["ms per query"]


def compare(
    systems: list[System],
    runs: dict[str, pd.DataFrame],
    latency: dict[str, float],
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    measures: list[object],
) -> pd.DataFrame:
    """Return the table, with daggers at significant differences from BM25."""
    found = pt.Experiment(runs, topics, qrels, measures, baseline=BM25, correction="holm")
    table = pd.DataFrame({"system": found["name"]})
    for measure in map(str, measures):
        # A system that equals BM25 on every query has no p-value; the correction would count it as significant.
        tested = found[f"{measure} p-value"].notna()
        marked = tested & found[f"{measure} reject"].fillna(False).astype(bool)
        table[measure] = [f"{value:.3f}{'†' if mark else ''}" for value, mark in zip(found[measure], marked)]
    sizes = {system.name: system.megabytes for system in systems}
    table["ms/query"] = [f"{latency[name]:.1f}" for name in found["name"]]
    table["MB"] = [f"{sizes[name]:.1f}" for name in found["name"]]
    return table


def write(table: pd.DataFrame, output: Path) -> None:
    """Write the table as CSV, Markdown and LaTeX."""
    table.to_csv(output / "results.csv", index=False)
    head, *rows = [list(table.columns), *table.to_numpy().tolist()]
    aligned = [":--", *["--:"] * (len(head) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, aligned, *rows)]
    (output / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    signs = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "†": r"$^\dagger$", ">>": r"$\gg$"}
    escaped = []
    for cells in (head, *rows):
        for sign, replacement in signs.items():
            cells = [cell.replace(sign, replacement) for cell in cells]
        escaped.append(" & ".join(cells) + r" \\")
    body = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", escaped[0], r"\midrule", *escaped[1:]]
    latex = "\n".join([*body, r"\bottomrule", r"\end{tabular}"])
    (output / "results.tex").write_text(latex + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except CspladeError as error:
        raise SystemExit(f"baselines.py: {error}") from error
