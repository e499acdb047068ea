"""The options that name a model, and the model that they name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pyterrier_csplade._errors import CollectionError, CspladeError

from .arguments import count

if TYPE_CHECKING:
    from pyterrier_csplade.model.csplade import CSPLADE
    from pyterrier_csplade.model.transformers import QueryEncoder
    from pyterrier_csplade.queries.table import QueryTable

#: The model that the package ships.
SHIPPED = "csplade-tiny"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and the options for loading it."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", default=SHIPPED, metavar="M", help="directory or hub id; default: %(default)s (included)")
    model.add_argument("--adapter", help="directory or hub id of a PEFT adapter")
    model.add_argument("--revision", help="revision of a hub model")
    model.add_argument("--variant", choices=["causal", "echo", "bidirectional"], help="default: the variant of the checkpoint")
    model.add_argument("--quantization", choices=["int8", "nf4", "int8-weight-only"])
    model.add_argument("--dtype", choices=["auto", "bfloat16", "float16", "float32", "float64"], default="auto")
    model.add_argument("--device", help="for example cuda:0; default: an accelerator, if available")
    model.add_argument("--batch-size", type=count, default=32, metavar="N", help="texts in a batch; default: %(default)s")


def named_model(arguments: argparse.Namespace, *, tried: bool = True) -> CSPLADE:
    """Return the model that the options name. Its weights are loaded when they are first needed.

    Args:
        arguments: Arguments of a command with :func:`add_model_options`.
        tried: Whether to check that ``--device`` works.

    Raises:
        CspladeError: The device cannot be used, or an option contradicts the checkpoint.
        FileNotFoundError: The model does not exist.
    """
    from pyterrier_csplade.model.csplade import CSPLADE

    names = ("adapter", "revision", "variant", "quantization", "dtype", "device", "batch_size")
    settings = {name: getattr(arguments, name) for name in names}
    settings["device"] = arguments.device or launched_device(os.environ)
    if arguments.device and tried:
        _check_device(arguments.device)
    packaged = {SHIPPED: CSPLADE.tiny, "csplade-small": CSPLADE.small}
    if arguments.model in packaged:
        return packaged[arguments.model](**settings)
    return CSPLADE(arguments.model, **settings)


def named_query_side(arguments: argparse.Namespace) -> CSPLADE | QueryTable:
    """Return the model or the query table that ``--model`` names, to encode queries."""
    from pyterrier_csplade.queries.content import TABLE_FILE
    from pyterrier_csplade.queries.table import QueryTable

    if (Path(arguments.model) / TABLE_FILE).is_file():
        for name in ("adapter", "revision", "variant", "quantization", "device"):
            if getattr(arguments, name) is not None:
                raise CspladeError(f"{arguments.model} is a query table, which does not use --{name}: leave it out")
        return QueryTable.load(arguments.model)
    return named_model(arguments)


def query_encoder(side: CSPLADE | QueryTable, *, verbose: bool = False) -> QueryEncoder | QueryTable:
    """Return the transformer that encodes queries."""
    from pyterrier_csplade.queries.table import QueryTable

    return side if isinstance(side, QueryTable) else side.query_encoder(verbose=verbose)


def launched_device(environment: Mapping[str, str]) -> str | None:
    """Return the GPU of this process if a launcher started several processes on a machine with GPUs, or else None."""
    if from_launcher("LOCAL_WORLD_SIZE", environment, environment.get("WORLD_SIZE", "1")) == 1:
        return None
    import torch

    return f"cuda:{from_launcher('LOCAL_RANK', environment)}" if torch.cuda.is_available() else None


def from_launcher(name: str, environment: Mapping[str, str], default: str = "") -> int:
    """Return the number in an environment variable of torchrun.

    Raises:
        CollectionError: The variable does not contain a number.
    """
    text = environment.get(name, default)
    try:
        return int(text)
    except ValueError as error:
        raise CollectionError(
            f"the environment variable {name}, which torchrun sets, must be a whole number, found {text!r:.60}: remove it"
        ) from error


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        reason = next(iter(str(error).splitlines()), "no reason is given")
        raise CspladeError(f"--device {device} cannot be used: {reason}") from error
