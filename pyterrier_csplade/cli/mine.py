"""The command ``mine``, which writes training rows with hard negatives."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import CspladeError

from .arguments import Say, count, examples, given_path, new_path
from .models import add_model_options, named_query_side, query_encoder

if TYPE_CHECKING:
    import pyterrier as pt


def add_command(commands: Any, say: Say) -> None:
    """Add ``mine`` to the command line."""
    mine = commands.add_parser(
        "mine",
        help="write training rows with negatives that a system retrieves",
        description="Write training rows in Tevatron's format: the relevant passages of each query, and negatives from an "
        "index or a run.",
        **examples(
            "mine my-collection --split train --run bm25.run --output train.jsonl.gz",
            "mine beir/scifact/train --fields title text --index scifact.csplade --output train.jsonl",
        ),
    )
    mine.add_argument("dataset", metavar="DATASET", help="documents as for encode, with their queries and judgements")
    mine.add_argument("--topics", metavar="T", help="queries as for search; default: the queries of DATASET")
    mine.add_argument(
        "--qrels", metavar="Q", help="judgements in TREC's format, or a dataset; default: the judgements of DATASET"
    )
    mine.add_argument("--split", metavar="S", help="split of topics and judgements, such as train")
    mine.add_argument("--fields", nargs="+", default=["text"], metavar="F", help="fields that form the text; default: text")
    results = mine.add_mutually_exclusive_group(required=True)
    results.add_argument("--run", dest="results", metavar="RUN", help="TREC run whose documents become negatives")
    results.add_argument("--index", type=given_path, metavar="DIR", help="index to search with --model")
    mine.add_argument("--teacher", metavar="RUN", help="TREC run with scores to distil")
    mine.add_argument("--output", required=True, type=new_path, metavar="FILE", help=".jsonl or .jsonl.gz")
    mine.add_argument(
        "--depth", type=count, default=200, metavar="N", help="results from which negatives are drawn; default: %(default)s"
    )
    mine.add_argument("--negatives", type=count, default=30, metavar="N", help="negatives per query; default: %(default)s")
    mine.add_argument("--seed", type=int, default=42, help="seed of the draws; default: %(default)s")
    add_model_options(mine)
    resume = "run the same command again: it resumes after the last query that was written"
    mine.set_defaults(run=lambda arguments: _mine(arguments, say), again=resume)


def _mine(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.data.sources import open_source
    from pyterrier_csplade.data.topics import read_qrels, read_topics
    from pyterrier_csplade.training.mining import mine_negatives

    for run in (arguments.results, arguments.teacher):
        if run is not None and not Path(run).is_file():
            raise CspladeError(f"there is no run {run}")
    corpus: Iterable[Mapping[str, Any]] = open_source(arguments.dataset).documents(arguments.fields, "text")
    topics = read_topics(arguments.topics or arguments.dataset, split=arguments.split)
    qrels = read_qrels(arguments.qrels or arguments.dataset, split=arguments.split)
    path = mine_negatives(
        arguments.results or _pipeline(arguments),
        topics,
        qrels,
        arguments.depth,
        output=arguments.output,
        corpus=corpus,
        teacher=arguments.teacher,
        negatives=arguments.negatives,
        seed=arguments.seed,
    )
    say(f"training rows: {path}")


def _pipeline(arguments: argparse.Namespace) -> pt.Transformer:
    from pyterrier_csplade.index.index import ImpactIndex

    index = ImpactIndex(arguments.index)
    index.open()
    return query_encoder(named_query_side(arguments)) >> index.retriever(algorithm="exhaustive", num_results=arguments.depth)
