"""What the subcommands share: checked numbers, examples at the end of help texts, and the refusal of a plan."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pyterrier_csplade._errors import ConfigError

T = TypeVar("T", int, float)


def _number(read: Callable[[str], T], least: float, most: float, expected: str) -> Callable[[str], T]:
    """Make an argument type that reads a number between two bounds and describes what it expected otherwise."""

    def convert(text: str) -> T:
        try:
            value = read(text)
        except ValueError:
            value = read("-1")  # below every least value
        if not least <= value <= most:
            raise ArgumentTypeError(f"must be {expected}, found {text!r:.60}")
        return value

    return convert


count = _number(int, 1, 2**31 - 1, "a whole number from 1 to 2,147,483,647")
weight = _number(float, 0, sys.float_info.max, "a finite number of at least 0")
share = _number(float, 0, 1, "a number from 0 to 1")


def new_path(text: str) -> Path:
    """Read the path of a file or directory that a command makes, which ends in a name."""
    if Path(text).name in ("", ".."):
        raise ArgumentTypeError(f"must be a path that ends in a name, found {text!r:.60}")
    return Path(text)


def refuse_problems(config: Path, problems: Sequence[str]) -> None:
    """Raise the first problem that a dry run found, with the number of the others.

    Raises:
        ConfigError: There is a problem.
    """
    if problems:
        first, *others = problems
        more = f" (and {len(others)} more, see above)" if others else ""
        raise ConfigError(f"{config}: {first}{more}")


def examples(*commands: str) -> dict[str, Any]:
    """Return arguments of ``add_parser`` that put examples at the end of a help text, each without the program's name."""
    lines = "\n".join(f"  pyterrier-csplade {command}" for command in commands)
    return {"formatter_class": RawDescriptionHelpFormatter, "epilog": f"examples:\n{lines}"}
