"""The commands ``encode`` and ``verify``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import CollectionError, CspladeError

from .arguments import count, share, weight

if TYPE_CHECKING:
    from pyterrier_csplade.collection.documents import Part
    from pyterrier_csplade.collection.encoding import Runner
    from pyterrier_csplade.model.transformers import DocEncoder


Say = Callable[[str], None]


def add_commands(commands: Any, say: Say) -> None:
    """Add ``encode`` and ``verify`` to the command line.

    Args:
        commands: The subparsers.
        say: Prints lines for people to read.
    """
    encode = commands.add_parser("encode", help="encode a collection into sparse vectors on disk, or resume a run")
    encode.add_argument(
        "dataset",
        metavar="DATASET",
        help="ir_datasets id, PyTerrier dataset, or file or directory: .jsonl, .tsv, .csv, .parquet or TREC",
    )
    encode.add_argument("--model", required=True, metavar="M", help="directory or hub id, or csplade-tiny (included)")
    encode.add_argument("--output", required=True, type=Path, metavar="DIR", help="directory of the encoded collection")
    encode.add_argument("--estimate", action="store_true", help="only encode a sample, and estimate time and disk space")
    encode.add_argument("--fields", nargs="+", default=["text"], metavar="F", help="fields that form the text; default: text")
    encode.add_argument("--top-k", type=count, metavar="K", help="keep the K heaviest terms of a document")
    encode.add_argument("--min-weight", type=weight, default=0.0, metavar="W", help="keep weights of at least W")
    encode.add_argument("--max-empty", type=share, default=0.5, metavar="X", help="largest share of texts without impacts")
    _add_model_options(encode)
    _add_division_options(encode)
    encode.set_defaults(run=lambda arguments: _encode(arguments, say))

    verify = commands.add_parser("verify", help="check every file and vector of an encoded collection")
    verify.add_argument("directory", type=Path, metavar="DIR")
    verify.set_defaults(run=lambda arguments: _verify(arguments, say))


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--adapter", help="directory or hub id of a PEFT adapter")
    model.add_argument("--revision", help="revision of a hub model")
    model.add_argument("--variant", choices=["causal", "echo", "bidirectional"], help="default: the variant of the checkpoint")
    model.add_argument("--quantization", choices=["int8", "nf4", "int8-weight-only"])
    model.add_argument("--dtype", choices=["auto", "bfloat16", "float16", "float32", "float64"], default="auto")
    model.add_argument("--device", help="for example cuda:0; default: an accelerator, if available")
    model.add_argument("--batch-size", type=count, default=32, metavar="N", help="texts of a batch; default: %(default)s")


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
        say(f"{outcome.documents:,} documents are encoded: {arguments.output}")
    else:
        say(f"part {part} is complete; {arguments.output} will be complete when all parts are")


def _runner(arguments: argparse.Namespace) -> AbstractContextManager[Runner | None]:
    if arguments.ray is None:
        return nullcontext()
    from pyterrier_csplade.collection.ray import cluster

    return cluster(arguments.ray, arguments.workers)


def _encoder(arguments: argparse.Namespace) -> DocEncoder:
    from pyterrier_csplade.model.csplade import CSPLADE

    names = ("adapter", "revision", "variant", "quantization", "dtype", "device", "batch_size")
    settings = {name: getattr(arguments, name) for name in names}
    settings["device"] = arguments.device or launched_device(os.environ)
    if arguments.device and arguments.ray is None:
        _check_device(arguments.device)
    tiny = arguments.model == "csplade-tiny"
    csplade = CSPLADE.tiny(**settings) if tiny else CSPLADE(arguments.model, **settings)
    return csplade.doc_encoder(top_k=arguments.top_k, min_weight=arguments.min_weight)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # an AssertionError if torch was built without CUDA
        reason = next(iter(str(error).splitlines()), "no reason is given")
        raise CspladeError(f"--device {device} cannot be used: {reason}") from error


def _verify(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.collection.opened import verify

    totals = verify(arguments.directory).totals
    say(f"{arguments.directory} is whole: {totals['documents']:,} documents, {totals['postings']:,} postings")


def launched_part(shard: str | None, processes: int | None, environment: Mapping[str, str]) -> Part:
    """Find out which shards this process encodes.

    Args:
        shard: "i/n" if the user named a part.
        processes: How many processes the user meant to start; None if unknown.
        environment: Environment variables; torchrun and ``accelerate launch`` set RANK and WORLD_SIZE.

    Raises:
        CollectionError: Another number of processes was started, or a part was named although several were.
    """
    from pyterrier_csplade.collection.documents import Part

    rank, count = _from_launcher("RANK", environment, "0"), _from_launcher("WORLD_SIZE", environment, "1")
    if processes is not None and processes != count:
        raise CollectionError(
            f"{count} process(es) were started, not {processes}: start them with "
            f"torchrun --standalone --nproc-per-node {processes} -m pyterrier_csplade encode ..."
        )
    if shard is None:
        return Part(rank, count)
    if count > 1:
        raise CollectionError(f"--shard {shard} contradicts the {count} processes of this launch: leave it out")
    return Part.parse(shard)


def launched_device(environment: Mapping[str, str]) -> str | None:
    """Return the GPU of this process among several on a machine; None if there is one process, or no GPU."""
    if _from_launcher("LOCAL_WORLD_SIZE", environment, environment.get("WORLD_SIZE", "1")) == 1:
        return None
    import torch

    return f"cuda:{_from_launcher('LOCAL_RANK', environment)}" if torch.cuda.is_available() else None


def _from_launcher(name: str, environment: Mapping[str, str], default: str = "") -> int:
    text = environment.get(name, default)
    try:
        return int(text)
    except ValueError as error:
        raise CollectionError(
            f"the environment variable {name}, which torchrun sets, must be a whole number, found {text!r:.60}: remove it"
        ) from error
