"""The set of docnos, compared with a list."""

from __future__ import annotations

import random

import pytest

from inside.storage import docnos as module
from pyterrier_csplade import DataError
from pyterrier_csplade.storage import Docnos


@pytest.mark.parametrize("size", [1, 7, 100])
def test_equals_a_list(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 10)
    monkeypatch.setattr(module, "_RATIO", 3)
    seen, reference = Docnos(), list[str]()
    generator = random.Random(size)
    for _ in range(400):
        chunk = [str(generator.randrange(10**12)) for _ in range(size)]
        seen.add(chunk)
        reference += chunk
        assert len(seen) == len(reference)
    for docno in generator.sample(reference, 50):
        with pytest.raises(DataError, match=f"'{docno}' of document {len(reference) + 1} appears twice"):
            seen.add([docno])
    assert len(seen) == len(reference)


def test_a_docno_that_appears_twice_in_one_call() -> None:
    with pytest.raises(DataError, match="'b' of document 4 appears twice"):
        Docnos().add(["a", "b", "c", "b"])
