"""Checked settings: dataclasses that convert and check the values of their fields."""

from __future__ import annotations

import difflib
import math
import numbers
import os
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from reprlib import Repr
from typing import Any, Literal, TypeVar

from pyterrier_csplade._errors import ConfigError, ContractError
from pyterrier_csplade.vectors.checks import check_revision

T = TypeVar("T")

# Smallest similarity of an unknown key to a suggestion, such as between "doc" and "document"; our choice (not measured).
_ALIKE = 0.5
# Integers must be smaller, so that numpy and torch can store them.
_INTEGERS_END = 2**63
# Settings that show that a configuration belongs to the other command.
_PHASES = {
    "corpus": "the adaptation phase: pyterrier-csplade adapt",
    "data": "the contrastive phase: pyterrier-csplade train",
}


class SettingError(ConfigError):
    """A setting is not valid.

    Attributes:
        keys: Names of the enclosing mappings and of the setting, from the outermost to the innermost.
    """

    def __init__(self, message: str, keys: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.keys = keys


def must(words: str, holds: Callable[[Any], bool]) -> dict[str, Any]:
    """Return the metadata of a field whose value, unless it is None, must meet a condition."""
    return {"must": (words, holds)}


BE_POSITIVE = must("be positive", lambda value: value > 0)
NOT_BE_NEGATIVE = must("not be negative", lambda value: value >= 0)
BE_AT_LEAST_1 = must("be at least 1", lambda value: value >= 1)
NOT_BE_EMPTY = must("not be empty", bool)
BE_A_SEED = must("be from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)


class Checked:
    """Base class of dataclasses that convert their fields to their types and check the conditions in the metadata."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for entry in fields(self):  # type: ignore[arg-type]
            name = entry.name
            try:
                value = _convert(getattr(self, name), hints[name])
            except SettingError as error:
                raise SettingError(f"{name}: {error}", (name, *error.keys)) from error
            object.__setattr__(self, name, value)  # the dataclasses are frozen
            words, holds = entry.metadata.get("must", ("", None))
            if holds and value is not None and not holds(value):
                raise SettingError(f"{name} must {words}, found {shown(value)}", (name,))


def config_from_dict(values: Any, config_class: type[T]) -> T:
    """Create a configuration from a mapping.

    Raises:
        ConfigError: A key is unknown or missing, or a value is not valid.
    """
    if not isinstance(values, dict):
        raise SettingError(f"expected a mapping of settings, found {type(values).__name__}")
    known = {entry.name: entry for entry in fields(config_class)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise SettingError(f"unknown setting {shown(key)}{_hint(key, list(known))}", (key,))
    required = [name for name, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING]
    if missing := [repr(name) for name in required if name not in values]:
        raise SettingError(f"missing setting{'s' * (len(missing) > 1)} {', '.join(missing)}")
    return config_class(**values)


def check_model(model: str, revision: str | None) -> None:
    """Refuse the setting ``revision`` if ``model`` is a directory or a file.

    Raises:
        ConfigError: It is.
    """
    try:
        check_revision(model, revision)
    except ContractError as error:
        raise SettingError(str(error), ("revision",)) from error


def shown(value: Any) -> str:
    """Return the representation of any value, shortened to a line."""
    return _SHORT.repr(value)


class _ShortRepr(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60

    def repr_int(self, value: int, level: int) -> str:
        """Describe large integers, because Python refuses to write more than 4,300 digits."""
        return repr(value) if abs(value) < _INTEGERS_END else f"an integer of {value.bit_length()} bits"


_SHORT = _ShortRepr()


def _hint(key: Any, known: list[str]) -> str:
    if key in _PHASES:
        return f", which is one of {_PHASES[key]}"
    nearest = difflib.get_close_matches(str(key)[:60], known, n=1, cutoff=_ALIKE)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _convert(value: Any, hint: Any) -> Any:
    """Convert a value to the type of its field. Numbers are parsed here, because YAML 1.1 reads ``1e-4`` as a string."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        hints = [a for a in arguments if a is not type(None)]
        if isinstance(value, str) and any(value in typing.get_args(a) for a in hints if typing.get_origin(a) is Literal):
            return value
        return _convert(value, next((a for a in hints if _looks_like(value, a)), hints[0]))
    if origin is Literal:
        if not (isinstance(value, str) and value in arguments):
            raise SettingError(f"expected one of {', '.join(map(repr, arguments))}, found {shown(value)}")
        return value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise SettingError(f"expected a list, found {shown(value)}")
        return [_convert(v, arguments[0]) for v in value]
    if is_dataclass(hint):
        return value if isinstance(value, hint) else config_from_dict(value, hint)  # type: ignore[arg-type]
    return _SCALARS[hint](value)


def _looks_like(value: Any, hint: Any) -> bool:
    """Return whether a value looks like one of several types."""
    return isinstance(value, (list, tuple)) if typing.get_origin(hint) is list else isinstance(value, str)


def _text(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise SettingError(f"expected str, found {shown(value)}: put text in quotation marks")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingError(f"not valid Unicode (a lone surrogate at character {error.start})") from error
    if "\0" in text:
        raise SettingError(f"contains a NUL character: {shown(text)}")
    return text


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"expected bool, found {shown(value)}: write true or false")
    return value


def _integer(value: Any) -> int:
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool)  # booleans are integers in Python
    # Infinity and NaN fail these comparisons.
    if not (whole and abs(value) < _INTEGERS_END and value == int(value)):
        raise SettingError(f"expected int, found {shown(value)}: write a whole number below 2^63")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, (str, numbers.Real)) and not isinstance(value, bool):
        try:
            if math.isfinite(number := float(value)):
                return number
        except (ValueError, OverflowError):
            pass
    raise SettingError(f"expected float, found {shown(value)}: write a finite number")


_SCALARS: dict[Any, Callable[[Any], Any]] = {str: _text, bool: _boolean, int: _integer, float: _float}
