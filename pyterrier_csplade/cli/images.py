"""The command ``train-images``."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import Say, examples, given_path, refuse_problems


def add_command(commands: Any, say: Say) -> None:
    """Add ``train-images`` to the command line."""
    images = commands.add_parser(
        "train-images",
        help="train an image head, which encodes pictures for the index of a text model",
        **examples("train-images images.yaml --dry-run", "train-images images.yaml --resume"),
    )
    images.add_argument("config", type=given_path, metavar="CONFIG", help="YAML or JSON file with the settings of the run")
    images.add_argument("--resume", action="store_true", help="resume from the last checkpoint of the run")
    images.add_argument(
        "--dry-run", action="store_true", help="check configuration and data, and estimate the time, without training"
    )
    images.set_defaults(run=lambda arguments: _train(arguments, say), again="run the same command with --resume")


def _train(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.training import load_config
    from pyterrier_csplade.training.images import ImagesConfig, plan_images, train_images

    config = load_config(arguments.config, ImagesConfig)
    if not arguments.dry_run:
        say(f"image head: {train_images(config, resume=arguments.resume)}")
        return
    plan = plan_images(config)
    say(str(plan))
    refuse_problems(arguments.config, plan.problems)
