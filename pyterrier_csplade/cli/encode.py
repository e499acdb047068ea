"""The commands ``encode`` and ``verify``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import CollectionError

from .arguments import Say, count, examples, given_path, share, weight
from .models import add_model_options, from_launcher, named_model

if TYPE_CHECKING:
    from pyterrier_csplade.collection.documents import Part
    from pyterrier_csplade.collection.encoding import Runner
    from pyterrier_csplade.model.transformers import DocEncoder


#: How to resume an interrupted command.
RESUME = "run the same command again: finished shards are kept"


def add_commands(commands: Any, say: Say) -> None:
    """Add ``encode`` and ``verify`` to the command line."""
    encode = commands.add_parser(
        "encode",
        help="encode a collection into sparse vectors on disk, or resume a run",
        **examples("encode docs.jsonl --output docs.vectors", "encode beir/scifact --fields title text --output s --estimate"),
    )
    encode.add_argument(
        "dataset",
        metavar="DATASET",
        help="ir_datasets id, PyTerrier dataset, or file or directory: .jsonl, .tsv, .csv, .parquet or TREC",
    )
    encode.add_argument("--output", required=True, type=given_path, metavar="DIR", help="directory of the encoded collection")
    encode.add_argument("--estimate", action="store_true", help="encode a sample only, and estimate time and disk space")
    encode.add_argument("--fields", nargs="+", default=["text"], metavar="F", help="fields that form the text; default: text")
    encode.add_argument("--top-k", type=count, metavar="K", help="keep the K heaviest terms of a document")
    encode.add_argument("--min-weight", type=weight, default=0.0, metavar="W", help="keep weights of at least W")
    encode.add_argument("--max-empty", type=share, default=0.5, metavar="X", help="largest share of texts without impacts")
    add_model_options(encode)
    _add_division_options(encode)
    encode.set_defaults(run=lambda arguments: _encode(arguments, say), again=RESUME)

    verify = commands.add_parser(
        "verify",
        help="check every file and vector of an encoded collection",
        **examples("verify docs.vectors", "verify docs.vectors && echo intact"),
    )
    verify.add_argument("directory", type=given_path, metavar="DIR")
    verify.set_defaults(run=lambda arguments: _verify(arguments, say))


def _add_division_options(parser: argparse.ArgumentParser) -> None:
    division = parser.add_argument_group("division of the work")
    division.add_argument(
        "--shard-size", type=count, default=20_000, metavar="N", help="documents per file; default: %(default)s"
    )
    division.add_argument("--shard", metavar="i/n", help="encode every n-th shard from the i-th on, counted from 0")
    division.add_argument("--ray", metavar="ADDRESS", help="encode on a Ray cluster: local, auto or host:port")
    division.add_argument("--workers", type=count, metavar="N", help="processes on the Ray cluster; default: one per GPU")
    division.add_argument("--processes", type=count, metavar="N", help="refuse to start unless torchrun started N processes")


def _encode(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.collection.encoding import encode_collection
    from pyterrier_csplade.collection.estimate import estimate
    from pyterrier_csplade.data.sources import open_source
    from pyterrier_csplade.storage.signals import stopping

    part = launched_part(arguments.shard, arguments.processes, os.environ)
    source = open_source(arguments.dataset)
    encoder = _encoder(arguments)
    documents = source.documents(arguments.fields, encoder.text_field)
    with stopping():
        if arguments.estimate:
            say(estimate(encoder, documents))
            return
        with _runner(arguments) as runner:
            outcome = encode_collection(
                encoder,
                documents,
                arguments.output,
                shard_size=arguments.shard_size,
                part=part,
                max_empty=arguments.max_empty,
                total=source.count(),
                verbose=True,
                say=say,
                runner=runner,
            )
    if outcome.complete:
        say(f"encoded {outcome.documents:,} documents: {arguments.output}")
    else:
        say(f"part {part} is complete; {arguments.output} will be complete when all parts are")


def _runner(arguments: argparse.Namespace) -> AbstractContextManager[Runner | None]:
    if arguments.ray is None:
        return nullcontext()
    from pyterrier_csplade.collection.ray import cluster

    return cluster(arguments.ray, arguments.workers)


def _encoder(arguments: argparse.Namespace) -> DocEncoder:
    csplade = named_model(arguments, tried=arguments.ray is None)
    return csplade.doc_encoder(top_k=arguments.top_k, min_weight=arguments.min_weight)


def _verify(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.collection.opened import verify

    totals = verify(arguments.directory).totals
    say(f"{arguments.directory} is intact: {totals['documents']:,} documents, {totals['postings']:,} postings")


def launched_part(shard: str | None, processes: int | None, environment: Mapping[str, str]) -> Part:
    """Return the part of the shards that this process encodes.

    Args:
        shard: "i/n" if the user named a part.
        processes: Number of processes that the user expects; None if unknown.
        environment: Environment variables. torchrun and ``accelerate launch`` set RANK and WORLD_SIZE.

    Raises:
        CollectionError: The number of processes differs from the expected number, or a part was named for several processes.
    """
    from pyterrier_csplade.collection.documents import Part

    rank, count = from_launcher("RANK", environment, "0"), from_launcher("WORLD_SIZE", environment, "1")
    if processes is not None and processes != count:
        raise CollectionError(
            f"the launcher started {count} process(es), not {processes}: start them with "
            f"torchrun --standalone --nproc-per-node {processes} -m pyterrier_csplade encode ..."
        )
    if shard is None:
        return Part(rank, count)
    if count > 1:
        raise CollectionError(f"--shard {shard} contradicts the {count} processes of this launch: leave it out")
    return Part.parse(shard)
