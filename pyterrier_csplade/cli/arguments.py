"""Parts that the subcommands share: checked numbers, examples in help texts, and the refusal of a plan."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pyterrier_csplade._errors import ConfigError

T = TypeVar("T", int, float)

#: A function that prints a text for the user.
Say = Callable[[str], None]


def _number(read: Callable[[str], T], least: float, most: float, expected: str) -> Callable[[str], T]:
    """Return an argument type that reads a number between two bounds; its error message states what it expects."""

    def convert(text: str) -> T:
        try:
            value = read(text)
        except ValueError:
            value = read("-1")  # below all lower bounds
        if not least <= value <= most:
            raise ArgumentTypeError(f"must be {expected}, found {text!r:.60}")
        return value

    return convert


count = _number(int, 1, 2**31 - 1, "a whole number from 1 to 2,147,483,647")
weight = _number(float, 0, sys.float_info.max, "a finite number of at least 0")
share = _number(float, 0, 1, "a number from 0 to 1")


def given_path(text: str) -> Path:
    """Read a path; an empty one would be the current directory."""
    if not text:
        raise ArgumentTypeError("must be a path, found ''")
    return Path(text)


def new_path(text: str) -> Path:
    """Read the path of a file or directory that a command makes, which ends in a name."""
    if Path(text).name in ("", ".."):
        raise ArgumentTypeError(f"must be a path that ends in a name, found {text!r:.60}")
    return Path(text)


def refuse_problems(config: Path, problems: Sequence[str]) -> None:
    """Raise an error with the first problem of a dry run and the number of others.

    Raises:
        ConfigError: There is a problem.
    """
    if problems:
        first, *others = problems
        more = f" (and {len(others)} more, see above)" if others else ""
        raise ConfigError(f"{config}: {first}{more}")


def examples(*commands: str) -> dict[str, Any]:
    """Return arguments of ``add_parser`` that put examples at the end of a help text.

    Args:
        commands: The examples, without the name of the program.
    """
    lines = "\n".join(f"  pyterrier-csplade {command}" for command in commands)
    return {"formatter_class": RawDescriptionHelpFormatter, "epilog": f"examples:\n{lines}"}
