"""Files of arrays: read back unchanged, or refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from inside.storage import arrays as module
from pyterrier_csplade import ImpactIndexError
from pyterrier_csplade.storage import ArrayFile, ArrayWriter
from support.disks import small_disk


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


@pytest.mark.parametrize("fallocate", ["works", "is missing", "is refused"])
def test_space_is_reserved_before_arrays_are_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallocate: str) -> None:
    if fallocate == "is missing":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    elif fallocate == "is refused":

        def refuse(*args: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    writer = ArrayWriter(tmp_path / "file")
    array = writer.allocate("a", (3, 500_000), np.int64)
    assert not array.any() and (tmp_path / "file").stat().st_blocks * 512 >= array.nbytes
    array[...] = np.arange(500_000)
    writer.add("b", np.arange(5))
    writer.finish({})
    file = ArrayFile(tmp_path / "file")
    assert (file["a"] == np.arange(500_000)).all() and file["b"].tolist() == [0, 1, 2, 3, 4]


def test_a_full_disk_is_an_error_before_anything_is_mapped(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "300k") as disk:
        writer = ArrayWriter(disk / "file")
        writer.add("a", np.arange(1000))
        with pytest.raises(OSError, match=r"no space left, 1,0\d\d,\d{3} bytes are needed for this file.*disk/file") as raised:
            writer.allocate("b", 1_000_000, np.uint8)
        assert raised.value.errno == errno.ENOSPC


def test_a_limit_on_the_size_of_files_is_an_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = ArrayWriter(tmp_path / "file")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            writer.allocate("a", 1_000_000, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
