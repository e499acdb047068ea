"""Objects that are compared by the arguments of their constructors."""

from __future__ import annotations

from typing import Any

from inside.project import Settings


class Cut(Settings):
    def __init__(self, owner: str = "o", *, k: int = 3, filter: Any = None, verbose: bool = False) -> None:
        self.owner, self.k, self.filter, self.verbose = owner, k, filter, verbose

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.owner,)


class Other(Cut):
    pass


def test_equal_arguments_make_equal_objects() -> None:
    same = [Cut(k=4, filter={"a": [1, {"b": 2}]}), Cut(filter={"a": [1, {"b": 2}]}, k=4, verbose=True)]
    assert same[0] == same[1] and hash(same[0]) == hash(same[1])
    for other in (Cut(k=4), Cut("p", k=4, filter={"a": [1, {"b": 2}]}), Other(k=4, filter={"a": [1, {"b": 2}]}), 4):
        assert same[0] != other


def test_repr_shows_what_was_changed_also_afterwards() -> None:
    cut = Other(filter=[1], verbose=True)
    assert repr(cut) == "Other(filter=[1])" and repr(Cut()) == "Cut()"
    cut.k = 9
    assert repr(cut) == "Other(k=9, filter=[1])"
