"""The command ``pyterrier-csplade``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import CspladeError, TrainingInterruptedError
from pyterrier_csplade._version import __version__

from . import distil_query, encode, exports, fetch, images, index, mine, search, table, vocabulary
from .arguments import count, examples, given_path, refuse_problems

if TYPE_CHECKING:
    from pyterrier_csplade.training.config import TrainingConfig


# Loggers of libraries that warn during import, about a missing GPU or about each other.
_TALKATIVE = ("bitsandbytes", "torchao", "torch.utils._pytree")

# Commands import their modules when they run, so that --help and usage errors do not load torch.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default, the arguments of the process.

    Returns:
        The exit status: 0; 2 after an error, with one line on stderr; 130 after an interruption; or 143 (SIGTERM) or 130
        (Ctrl-C) if a signal stopped a training run after a checkpoint. While encoding, SIGTERM raises SystemExit with 143.
    """
    _open_streams()
    _silence_libraries()
    arguments = argparse.Namespace()
    try:
        _parser().parse_args(argv, arguments)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            arguments.run(arguments)
    except (CspladeError, OSError) as error:
        _complain(f"pyterrier-csplade: {' '.join(str(error).split())}")
        return 128 + error.number if isinstance(error, TrainingInterruptedError) else 2
    except KeyboardInterrupt:
        _complain(f"\npyterrier-csplade: interrupted{_how_to_resume(arguments)}")
        return 130
    except SystemExit as stopped:
        if stopped.code == 128 + signal.SIGTERM:
            _complain(f"\npyterrier-csplade: terminated{_how_to_resume(arguments)}")
        raise
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser that ends with the same status if nobody can read its help or its error, as in later versions of Python."""

    def _print_message(self, message: str, file: Any = None) -> None:
        with suppress(OSError):
            super()._print_message(message, file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pyterrier-csplade",
        description="Learned sparse retrieval with causal language models (CSPLADE) for PyTerrier.",
        **examples("index docs.jsonl --output docs.csplade", "search docs.csplade 'inverted index'"),
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="compare CSPLADE with BM25 on the documentation of this Python",
        **examples("demo", "demo --output elsewhere"),
    )
    demo.add_argument("--output", type=given_path, default=Path("csplade-demo"), metavar="DIR", help="default: %(default)s")
    demo.set_defaults(run=_demo, again="run the same command again")

    for name, run, text in (
        ("adapt", _adapt, "train a language model for CSPLADE: the adaptation phase"),
        ("train", _train, "train a CSPLADE model: the contrastive phase"),
    ):
        phase = commands.add_parser(name, help=text, **examples(f"{name} run.yaml --dry-run", f"{name} run.yaml --resume"))
        phase.add_argument("config", type=given_path, metavar="CONFIG", help="YAML or JSON file with the settings of the run")
        phase.add_argument("--resume", action="store_true", help="resume from the last checkpoint of the run")
        _add_dry_run(phase)
        phase.set_defaults(run=run, again="run the same command with --resume")

    plot = commands.add_parser(
        "plot",
        help="plot the training curves of a run",
        **examples("plot runs/csplade", "plot runs/csplade && ls runs/csplade"),
    )
    plot.add_argument("run_directory", type=given_path, metavar="RUN", help="output directory of the run")
    plot.set_defaults(run=_plot)

    encode.add_commands(commands, _say)
    for command in (vocabulary, images, index, search, mine, table, distil_query, exports, fetch):
        command.add_command(commands, _say)
    return parser


def _add_dry_run(phase: argparse.ArgumentParser) -> None:
    plan = phase.add_argument_group(
        "dry run", "check configuration and data, and estimate memory and time, without loading weights"
    )
    plan.add_argument("--dry-run", action="store_true", help="check and estimate without training")
    plan.add_argument("--gpu", default="h100", help="GPU for the estimate; default: %(default)s")
    plan.add_argument("--gpus", type=count, default=1, metavar="N", help="GPUs that share a batch; default: %(default)s")
    plan.add_argument("--fsdp", action="store_true", help="the GPUs also share the weights (FSDP)")
    plan.add_argument("--like", metavar="MODEL", help="a model of the same shape, if the model of the run does not exist yet")


def _open_streams() -> None:
    """Open standard streams that were closed at the start, so that no file gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _silence_libraries() -> None:
    """Suppress log messages of libraries during import, except errors."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


def _how_to_resume(arguments: argparse.Namespace) -> str:
    hint = getattr(arguments, "again", None)
    return f": {hint}" if isinstance(hint, str) else ""


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _complain(f"pyterrier-csplade: warning: {message}")


def _complain(text: str) -> None:
    with suppress(OSError):  # a closed pipe
        sys.stderr.write(f"{text}\n")


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except OSError as error:  # a full disk or a closed pipe
        _discard_output()
        raise OSError(error.errno, error.strerror, "standard output") from error


def _discard_output() -> None:
    """Redirect stdout to the null device. Otherwise, Python would flush it again at exit, and fail."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _demo(arguments: argparse.Namespace) -> None:
    from .demo import available_model, run_demo

    arguments.output.mkdir(parents=True, exist_ok=True)  # before a download
    csplade, name = available_model(_say)
    run_demo(csplade, arguments.output, name=name, say=_say)


def _adapt(arguments: argparse.Namespace) -> None:
    from pyterrier_csplade.training import AdaptationConfig, adapt

    _run_phase(arguments, AdaptationConfig, adapt, "adapted model")


def _train(arguments: argparse.Namespace) -> None:
    from pyterrier_csplade.training import ContrastiveConfig, train

    _run_phase(arguments, ContrastiveConfig, train, "CSPLADE model")


def _run_phase(arguments: argparse.Namespace, kind: type[TrainingConfig], run: Callable[..., Path], result: str) -> None:
    from pyterrier_csplade.training import dry_run, load_config

    config = load_config(arguments.config, kind)
    if not arguments.dry_run:
        _say(f"{result}: {run(config, resume=arguments.resume)}")
        return
    plan = dry_run(config, gpu=arguments.gpu, gpus=arguments.gpus, fsdp=arguments.fsdp, like=arguments.like)
    _say(str(plan))
    refuse_problems(arguments.config, plan.problems)


def _plot(arguments: argparse.Namespace) -> None:
    from pyterrier_csplade.training import plot_curves

    _say(f"training curves: {plot_curves(arguments.run_directory)}")
