"""The command ``vocabulary``."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import Say, examples, given_path


def add_command(commands: Any, say: Say) -> None:
    """Add ``vocabulary`` to the command line."""
    vocabulary = commands.add_parser(
        "vocabulary",
        help="adapt the vocabulary of a language model to a corpus, before the command adapt",
        **examples("vocabulary vocabulary.yaml", "vocabulary vocabulary.yaml && pyterrier-csplade adapt adapt.yaml"),
    )
    vocabulary.add_argument(
        "config", type=given_path, metavar="CONFIG", help="YAML or JSON file with the settings of the stage"
    )
    vocabulary.set_defaults(
        run=lambda arguments: _vocabulary(arguments, say), again="nothing was written: run the same command again"
    )


def _vocabulary(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.training import VocabularyConfig, load_config, make_vocabulary

    say(f"language model with another vocabulary: {make_vocabulary(load_config(arguments.config, VocabularyConfig))}")
