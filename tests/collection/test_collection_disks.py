"""Full disks, other writers and unusual paths: nothing is lost, and the final bytes are the same."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import subprocess
from pathlib import Path

import pytest

from inside.collection import Part, writing
from pyterrier_csplade import CSPLADE, CollectionError
from support.vector_collections import content, documents, encode


@pytest.fixture
def whole(csplade: CSPLADE, tmp_path: Path) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    encode(tmp_path / "whole", csplade)
    return content(tmp_path / "whole")


def test_a_full_disk(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 15:  # two per file: three files at the beginning, two for each shard
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"no space left, [\d,]+ bytes are needed .*shard-000002.safetensors") as raised:
        encode(tmp_path / "c", csplade)
    assert raised.value.errno == errno.ENOSPC
    assert sorted(content(tmp_path / "c")) == sorted(
        ["pt_meta.json", "terms.json", "plan.json"] + [f"shard-00000{i}.{e}" for i in (0, 1) for e in ("json", "safetensors")]
    )
    monkeypatch.undo()
    encode(tmp_path / "c", csplade)
    assert content(tmp_path / "c") == whole


def test_a_disk_that_breaks(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original error is raised, and no partial file is left."""

    def replace(path: Path, target: Path) -> None:
        if target.name == "shard-000001.json":
            raise OSError(errno.EIO, "Input/output error", str(target))
        os.replace(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match=r"\[Errno 5\] Input/output error: .*shard-000001.json"):
        encode(tmp_path / "c", csplade)
    left = content(tmp_path / "c")
    assert [name for name in left if name.startswith(".")] == []
    assert {name for name in left if name.endswith("0.json")} == {"shard-000000.json"} and "shard-000001.json" not in left
    monkeypatch.undo()
    encode(tmp_path / "c", csplade)
    assert content(tmp_path / "c") == whole


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_is_really_full(csplade: CSPLADE, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (disk / "ballast").write_bytes(b"x" * 32768)
        with pytest.raises(OSError, match=r"no space left, [\d,]+ bytes are needed for this file") as raised:
            encode(disk / "c", csplade, documents(400), shard_size=20)
        assert raised.value.errno == errno.ENOSPC and re.search(r"disk/c/\S+", str(raised.value))
        before = len(list((disk / "c").glob("shard-*.json")))
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        encode(disk / "c", csplade, documents(400), shard_size=20).verify()
        assert before > 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_second_writer_is_refused_at_once(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    directory = tmp_path / "c"
    directory.mkdir()
    with writing(directory, Part(1, 3)):
        for part in ("0/1", "1/3", "0/2"):
            with pytest.raises(CollectionError, match=f"c is being written by process {os.getpid()}: wait until it has ended"):
                encode(directory, csplade, part=part)
        encode(directory, csplade, part="0/3")
    encode(directory, csplade)
    assert content(directory) == whole


def test_a_killed_writer_leaves_no_lock(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".writer-0-of-1").write_text("4194304")
    (tmp_path / "c" / ".writer-all").write_text("")
    (tmp_path / "c" / ".shard-000001.safetensors.tmp").write_text("half")
    encode(tmp_path / "c", csplade)
    assert content(tmp_path / "c") == whole


def test_read_only_and_strange_places(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "ein Verzeichnis mit Leerzeichen, ü 検索"
    encode(path, csplade)
    assert content(path) == whole
    with pytest.raises(OSError, match="x" * 300):
        encode(tmp_path / ("x" * 300), csplade)


def test_nothing_is_a_pickle(whole: dict[str, bytes]) -> None:
    for name, raw in whole.items():
        if name.endswith(".json"):
            json.loads(raw)
        else:
            assert raw[8:9] == b"{"  # the header of a safetensors file


def _write_often(directory: Path, number: int) -> tuple[int, int]:
    """Try to become the writer of a part 25 times; return the numbers of successes and of refusals."""
    written = refused = 0
    for _ in range(25):
        try:
            with writing(directory, Part(number % 2, 2)):
                written += 1
        except CollectionError as error:
            assert "is being written by process" in str(error)
            refused += 1
    return written, refused


def test_writers_that_end_while_others_begin(tmp_path: Path) -> None:
    """The only error is the one for two writers of one part."""
    with multiprocessing.get_context("fork" if os.name == "posix" else "spawn").Pool(4) as pool:
        results = pool.starmap(_write_often, [(tmp_path, number) for number in range(4)], chunksize=1)
    assert [sum(result) for result in results] == [25] * 4 and sum(written for written, _ in results) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="makes symbolic links")
def test_planted_links_in_a_collection_are_not_followed(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "c").mkdir()
    for name in ("plan.json", "terms.json", "shard-000000.safetensors", "shard-000000.json", "manifest.json"):
        (tmp_path / "c" / f".{name}.tmp").symlink_to(tmp_path / "victim")
    encode(tmp_path / "c", csplade)
    assert (tmp_path / "victim").read_text() == "mine"
    assert content(tmp_path / "c") == whole
