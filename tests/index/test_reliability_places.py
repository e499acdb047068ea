"""Full disks, places that cannot be written, and unusual paths."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyterrier_csplade import ImpactIndex, ImpactIndexError
from support.disks import small_disk
from support.whole_indexes import OLD, clean_writer_leaves_nothing_else, documents, found


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("mount") is None, reason="mounts a tmpfs")
@pytest.mark.parametrize("count", [1200, 60_000])  # full while the index is written; full while documents are spooled
def test_full_disk_is_an_error_of_the_system_and_harms_nothing(tmp_path: Path, count: int) -> None:
    with small_disk(tmp_path / "disk", "700k") as disk:
        path = disk / "index"
        ImpactIndex(path).index(documents(OLD))
        vectors = ({f"t{(i * j) % 9973}": 1 + j % 90 for j in range(60)} for i in range(count))
        wide = ({"docno": f"n{i}", "toks": toks} for i, toks in enumerate(vectors))
        with pytest.raises(OSError, match="no space left.*index"):
            ImpactIndex(path).toks_indexer(overwrite=True).index(wide)
        assert found(path) == OLD
        clean_writer_leaves_nothing_else(path)


def test_a_disk_that_is_full_while_postings_are_written(tmp_path: Path) -> None:
    """The file is mapped into memory: if its space were not reserved, a full disk would end the process by SIGBUS."""
    with small_disk(tmp_path / "disk", "700k") as disk:
        index = ImpactIndex(disk / "index").index(documents(OLD))
        for postings in index.directory.glob("csplade_postings.bin"):
            postings.unlink()
        (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 8192))
        with pytest.raises(OSError, match=r"no space left, [\d,]+ bytes are needed for this file.*csplade_postings"):
            ImpactIndex(index.path).postings()
        (disk / "ballast").unlink()
        assert len(ImpactIndex(index.path).postings()) == OLD
        assert [path.name for path in index.directory.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs, or takes rights away")
def test_directory_that_cannot_be_written_is_refused_and_read_all_the_same(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        place = tmp_path / "place"
        if os.geteuid() == 0:  # root may write everywhere except on read-only mounts
            stack.enter_context(small_disk(place, "700k"))
        else:
            place.mkdir()
            stack.callback(place.chmod, 0o700)
        index = ImpactIndex(place / "index").index(documents(OLD))
        if os.geteuid() == 0:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        else:
            place.chmod(0o500)
        for new in (ImpactIndex(place / "new"), index.toks_indexer(overwrite=True)):
            with pytest.raises(ImpactIndexError, match="cannot write an index at"):
                new.index(documents(3))
        assert found(index.directory) == OLD


def test_impossible_places_are_refused_before_the_first_document(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = [tmp_path / "file" / "index", tmp_path / ("x" * 256)] + [Path("/proc/nowhere/index")] * Path("/proc").exists()
    for place in places:
        with pytest.raises(ImpactIndexError, match="cannot write an index at"):
            ImpactIndex(place).index(pytest.fail("read too early") for _ in [0])
    with pytest.raises(ImpactIndexError, match="is not an index"):
        ImpactIndex(tmp_path / "file").index(documents(3))


@pytest.mark.parametrize("name", ["with spaces", "Ünïcödé 検索", "x" * 255, "a/missing/parent", "$HOME;'\"#%"])
def test_unusual_paths_work(tmp_path: Path, name: str) -> None:
    ImpactIndex(tmp_path / name).index(documents(OLD))
    assert found(tmp_path / name) == OLD


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no C locale")
def test_locale_without_unicode(tmp_path: Path) -> None:
    code = """
import sys
from pyterrier_csplade import ImpactIndex, ImpactIndexError
index = ImpactIndex(sys.argv[1] + "/plain").index([{"docno": "é", "toks": {"Ġa": 1}}])
assert index.meta_index().getItem("docno", 0) == "é" and "Ġa" in index.lexicon()
try:
    ImpactIndex(sys.argv[1] + "/ünï/index").index(1 / 0 for _ in [0])
except ImpactIndexError as error:
    assert "LC_ALL" in str(error)
    print("refused")
"""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env=environment, check=False
    )
    assert process.stdout == "refused\n", process.stderr


def test_relative_path_and_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    index = ImpactIndex("index").index(documents(3))
    assert len(index) == 3 and (tmp_path / "index").is_dir()
