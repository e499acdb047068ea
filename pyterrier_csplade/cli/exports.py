"""The command ``export``: vectors or a model in the format of another tool."""

from __future__ import annotations

import argparse
from typing import Any

from pyterrier_csplade._errors import CspladeError

from .arguments import Say, examples, given_path
from .models import SHIPPED, add_model_options, named_model

_FORMATS = ("anserini", "ciff", "lsr-benchmark", "sentence-transformers")


def add_command(commands: Any, say: Say) -> None:
    """Add ``export`` to the command line."""
    export = commands.add_parser(
        "export",
        help="write vectors or a model in the format of another tool",
        description="anserini: a JsonVectorCollection; ciff: the Common Index File Format, which needs pyterrier-ciff; "
        "lsr-benchmark: a directory of embeddings of documents and queries; sentence-transformers: a model as a SparseEncoder.",
        **examples(
            "export anserini docs.vectors --output docs.jsonl",
            f"export sentence-transformers {SHIPPED} --output csplade-tiny-encoder",
        ),
    )
    export.add_argument("format", choices=_FORMATS, metavar="FORMAT", help=", ".join(_FORMATS))
    export.add_argument(
        "source", metavar="SOURCE", help="encoded collection, index, or documents with toks or vector; or a model"
    )
    export.add_argument(
        "--output", required=True, type=given_path, metavar="PATH", help="file or directory to write; must not exist"
    )
    export.add_argument("--topics", metavar="T", help="queries as for search; only for lsr-benchmark")
    export.add_argument("--split", metavar="S", help="split of a directory, or variant of a dataset's topics")
    export.add_argument("--field", metavar="F", help="field of the query text; default: query, text or title")
    add_model_options(export)
    resume = "nothing was written: run the same command again"
    export.set_defaults(run=lambda arguments: _export(arguments, say), again=resume)


def _export(arguments: argparse.Namespace, say: Say) -> None:
    if arguments.output.exists():
        raise CspladeError(f"{arguments.output} exists: choose another name, or remove it")
    if (arguments.topics is None) == (arguments.format == "lsr-benchmark"):
        raise CspladeError("--topics is required for lsr-benchmark, and not used by other formats")
    if arguments.format == "sentence-transformers":
        _export_model(arguments)
        say(f"exported the model: {arguments.output}")
    else:
        say(f"exported {_export_vectors(arguments):,} documents: {arguments.output}")


def _export_model(arguments: argparse.Namespace) -> None:
    from pyterrier_csplade.model.export import export_sentence_transformers
    from pyterrier_csplade.storage.workspace import publish, workspace

    if arguments.model not in (SHIPPED, arguments.source):
        raise CspladeError(f"SOURCE {arguments.source} and --model {arguments.model} are different models: leave out --model")
    arguments.model = arguments.source
    output = arguments.output.absolute()
    with workspace(output) as directory:
        export_sentence_transformers(named_model(arguments), directory / output.name)
        publish(directory / output.name, output)


def _export_vectors(arguments: argparse.Namespace) -> int:
    from pyterrier_csplade.engines.formats import export_ciff, export_json_vectors, export_lsr_benchmark

    from .given import encoded_topics, vectors_of

    documents = vectors_of(arguments.source)
    if arguments.format == "anserini":
        return export_json_vectors(documents, arguments.output)
    if arguments.format == "ciff":
        return export_ciff(documents, arguments.output)
    return export_lsr_benchmark(documents, encoded_topics(arguments), arguments.output)
