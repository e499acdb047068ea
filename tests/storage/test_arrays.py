"""Files of arrays: read back unchanged, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inside.storage import arrays as module
from pyterrier_csplade import ImpactIndexError
from pyterrier_csplade.storage import ArrayFile, ArrayWriter


def test_arrays_round_trip(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {"a": np.arange(7, dtype=np.int16), "empty": np.zeros(0, np.float32), "square": np.eye(3)}
    writer = ArrayWriter(tmp_path / "file")
    for name, array in arrays.items():
        writer.add(name, array)
    writer.finish({"note": "検索"})
    for memory in (False, True):
        file = ArrayFile(tmp_path / "file", memory=memory)
        for name, array in arrays.items():
            assert file[name].dtype == array.dtype and np.array_equal(file[name], array)
            assert not file[name].flags.writeable or not array.size
        assert file.metadata == {"note": "検索"} and "a" in file and "b" not in file
        file.verify()


def test_directory_that_is_replaced_meanwhile_gets_no_half_a_file(tmp_path: Path) -> None:
    place, aside = tmp_path / "index", tmp_path / "aside"
    place.mkdir()
    writer = ArrayWriter(place / "file")
    writer.add("a", np.arange(1000))
    place.rename(aside)
    place.mkdir()
    writer.add("b", np.arange(5))
    writer.finish({})
    assert not list(place.iterdir())
    assert np.array_equal(ArrayFile(aside / "file")["a"], np.arange(1000))


def test_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FORMAT", 2)
    ArrayWriter(tmp_path / "file").finish({})
    monkeypatch.undo()
    with pytest.raises(ImpactIndexError, match="another format"):
        ArrayFile(tmp_path / "file")
