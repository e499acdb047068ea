"""The command ``table``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import Say, examples, given_path


def add_command(commands: Any, say: Say) -> None:
    """Add ``table`` to the command line."""
    table = commands.add_parser(
        "table",
        help="make a query table, which encodes queries without a language model",
        **examples("table table.yaml --dry-run", "table table.yaml"),
    )
    table.add_argument("config", type=given_path, metavar="CONFIG", help="YAML or JSON file with the settings of the table")
    table.add_argument(
        "--dry-run", action="store_true", help="check the settings and count the queries, without loading weights"
    )
    table.set_defaults(run=lambda arguments: _table(arguments, say), again="nothing was written: run the same command again")


def _table(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.training.config_file import load_config
    from pyterrier_csplade.training.table import TableConfig

    config = load_config(arguments.config, TableConfig)
    config.check_output()
    queries, model = config.read(), config.load_model()
    words = sum(len(query.split()) for query in queries) / len(queries)
    say(f"{len(queries):,} queries of {words:.1f} words on average, which {model} encodes; filling: {config.fill}")
    if arguments.dry_run:
        return
    table = config.make(model, queries)
    table.save(config.output)
    size = (Path(config.output) / "table.npz").stat().st_size
    say(f"query table: {config.output} ({table.expansion.nnz:,} weights of expansion, {size / 1000:,.0f} kB)")
