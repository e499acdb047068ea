"""Equality, hash and ``repr`` of an object from the arguments that made it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any


class Settings:
    """Compares an object by the arguments that made it, and shows in its ``repr`` those that differ from their defaults.

    Every keyword-only argument of a subclass's constructor is an attribute of the same name. ``verbose`` is left out, since it
    changes no result.

    Example::

        class Cut(Settings):
            def __init__(self, *, top_k: int = 100, verbose: bool = False) -> None:
                self.top_k = top_k
                self.verbose = verbose

        Cut(top_k=5) == Cut(top_k=5, verbose=True)
        repr(Cut(top_k=5))  # "Cut(top_k=5)"
        repr(Cut())  # "Cut()"
    """

    def _maker(self) -> str:
        """Return what stands in front of the arguments in ``repr``: the class, or the call that makes the object."""
        return type(self).__name__

    def _belongs_to(self) -> tuple[Any, ...]:
        """Return what the object was made from besides its settings, such as a model or an index; all hashable."""
        return ()

    def _defaults(self) -> dict[str, Any]:
        """Return the default of each setting; those that depend on the model or the index are filled in by subclasses."""
        return dict(_signature(type(self)))  # type: ignore[arg-type]  # a class is hashable, whatever its objects are

    def settings(self) -> dict[str, Any]:
        """Return the value of each setting."""
        return {name: getattr(self, name) for name in self._defaults()}

    def _changed(self) -> list[str]:
        defaults = self._defaults()
        return [f"{name}={value!r}" for name, value in self.settings().items() if value != defaults[name]]

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


@cache
def _signature(kind: Any) -> tuple[tuple[str, Any], ...]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return tuple((p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "verbose")


def _frozen(value: Any) -> Any:
    """Return a hashable stand-in for a value; equal values have equal ones."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value
