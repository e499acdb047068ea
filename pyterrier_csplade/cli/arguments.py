"""Numbers on the command line, checked by argparse before anything is loaded."""

from __future__ import annotations

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        ArgumentTypeError: The text is not such a number.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, found {text!r}")
    return value


def weight(text: str) -> float:
    """Read a finite number of at least 0.

    Raises:
        ArgumentTypeError: The text is not such a number.
    """
    return _number(text, float("inf"), "a finite number of at least 0")


def share(text: str) -> float:
    """Read a number from 0 to 1.

    Raises:
        ArgumentTypeError: The text is not such a number.
    """
    return _number(text, 1.0, "a number from 0 to 1")


def _number(text: str, most: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value <= most and value < float("inf")):
        raise ArgumentTypeError(f"must be {expected}, found {text!r}")
    return value
