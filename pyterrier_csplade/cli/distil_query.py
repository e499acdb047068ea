"""The command ``distil-query``."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import Say, examples, given_path


def add_command(commands: Any, say: Say) -> None:
    """Add ``distil-query`` to the command line."""
    distil = commands.add_parser(
        "distil-query",
        help="train a query encoder with some layers of a model, for documents that the whole model encoded",
        **examples("distil-query shallow.yaml --dry-run", "distil-query shallow.yaml"),
    )
    distil.add_argument("config", type=given_path, metavar="CONFIG", help="YAML or JSON file with the settings")
    distil.add_argument(
        "--dry-run", action="store_true", help="check the settings and count the queries, without loading weights"
    )
    distil.set_defaults(run=lambda arguments: _distil(arguments, say), again="nothing was written: run the same command again")


def _distil(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.training.config_file import load_config
    from pyterrier_csplade.training.query_distillation import DistilQueryConfig, distil_query

    config = load_config(arguments.config, DistilQueryConfig)
    config.check_output()
    queries, model = config.read(), config.load_model()
    words = sum(len(query.split()) for query in queries) / len(queries)
    say(f"{len(queries):,} queries of {words:.1f} words on average, which {model} encodes; layers: {config.layers}")
    if arguments.dry_run:
        return
    output = distil_query(config)
    say(f"query encoder: {output}")
