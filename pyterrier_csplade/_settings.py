"""Equality, hash and ``repr`` of objects from the arguments of their constructors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar


class Settings:
    """Base class of objects that are compared by the arguments of their constructor, and show changed ones in their ``repr``.

    Every keyword-only argument of a subclass's constructor must be stored in an attribute of the same name. ``verbose`` is
    ignored, because it changes no result.

    Example::

        from pyterrier_csplade._settings import Settings

        class Cut(Settings):
            def __init__(self, *, top_k: int = 100, verbose: bool = False) -> None:
                self.top_k = top_k
                self.verbose = verbose

        Cut(top_k=5) == Cut(top_k=5, verbose=True)
        repr(Cut(top_k=5))  # "Cut(top_k=5)"
        repr(Cut())  # "Cut()"
    """

    #: PyTerrier labels transformers with the names of their classes; they have no page in its documentation.
    schematic: ClassVar[dict[str, Any]] = {"help_url": None}

    def _maker(self) -> str:
        """Return the call that makes the object, for ``repr``; by default the class."""
        return type(self).__name__

    def _belongs_to(self) -> tuple[Any, ...]:
        """Return the hashable objects besides the settings that determine equality, such as a model or an index."""
        return ()

    def _defaults(self) -> dict[str, Any]:
        """Return the default of each setting; subclasses fill in defaults that depend on a model or an index."""
        return dict(_signature(type(self)))  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """Return the value of each setting."""
        return {name: getattr(self, name) for name in self._defaults()}

    def _changed(self) -> list[str]:
        """Return the arguments that ``repr`` shows."""
        defaults = self._defaults()
        return [f"{name}={value!r}" for name, value in self.settings().items() if value != defaults[name]]

    def _named(self, *parts: str) -> str:
        """Return the class with these parts in parentheses, for ``str``: short, and valid as a file name."""
        return as_name(f"{type(self).__name__}({', '.join(parts)})")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Settings)
            and type(self) is type(other)
            and self._belongs_to() == other._belongs_to()
            and self.settings() == other.settings()
        )

    def __hash__(self) -> int:
        return hash((type(self), self._belongs_to(), _frozen(self.settings())))

    def __repr__(self) -> str:
        return f"{self._maker()}({', '.join(self._changed())})"


class CheckedAttribute:
    """An attribute that checks and converts its values, in the constructor and in ``set_parameter``."""

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = self._check(value)


def as_name(text: str) -> str:
    """Replace characters that file names must not contain, so that ``pt.Experiment(save_dir=...)`` can use the text."""
    return re.sub(r'[:"%/<>^|?*\\]+', "-", text)


@cache
def _signature(kind: Any) -> tuple[tuple[str, Any], ...]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return tuple((p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "verbose")


def _frozen(value: Any) -> Any:
    """Return a hashable equivalent of a value; equal values have equal ones."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value
