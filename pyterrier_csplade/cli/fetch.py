"""The command ``fetch``."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import Say, examples


def add_command(commands: Any, say: Say) -> None:
    """Add ``fetch`` to the command line."""
    fetch = commands.add_parser(
        "fetch",
        help="download the base model of csplade-small, SmolLM2-135M, into the cache",
        **examples("fetch small", "fetch small && pyterrier-csplade vocabulary vocabulary.yaml"),
    )
    fetch.add_argument("model", choices=["small"], metavar="MODEL", help="small: the base model of csplade-small")
    fetch.set_defaults(run=lambda arguments: _fetch(arguments, say), again="nothing was kept: run the same command again")


def _fetch(_: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.model.assembly import BASE_OF_SMALL
    from pyterrier_csplade.model.bases import fetch_base

    say(f"base model of csplade-small: {fetch_base(BASE_OF_SMALL)}")
