"""Files that are written whole or not at all, manifests and locks."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
from pathlib import Path
from typing import Any

import filelock
import pytest

from pyterrier_csplade import CollectionError
from pyterrier_csplade.storage import (
    ArrayWriter,
    LockedError,
    damages,
    locked,
    publishing,
    read_manifest,
    write_atomically,
    write_manifest,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}
    write_atomically(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"new"}


def test_a_manifest_names_what_differs(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for name in ("a", "b", "parts/c", "d"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path, "manifest.json", documents=3)
    write_manifest(tmp_path, "manifest.json", documents=3)  # does not list itself
    values = read_manifest(tmp_path / "manifest.json", CollectionError, "copy it again")
    assert values["documents"] == 3 and list(values["files"]) == ["a", "b", "d", "parts/c"]
    assert list(damages(tmp_path, values["files"])) == []
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("longer")
    (tmp_path / "parts/c").write_text("parts/x")
    found = ["a is missing", "b has 6 bytes, not 1", "parts/c has changed since it was written"]
    assert list(damages(tmp_path, values["files"])) == found
    assert list(damages(tmp_path, values["files"], digests=False)) == found[:2]


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        with pytest.raises(LockedError, match=str(os.getpid())), locked(tmp_path / "lock", wait=False):
            pass
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "lock", wait=False):
        pass


def _critical_sections(directory: Path, number: int) -> tuple[int, int]:
    """Enter a critical section 200 times, half of the processes without waiting; return entries and overlaps."""
    entered = overlaps = 0
    for _ in range(200):
        try:
            with locked(directory / "lock", wait=number % 2 == 0):
                try:
                    os.close(os.open(directory / "inside", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    overlaps += 1
                else:
                    entered += 1
                    (directory / "inside").unlink()
        except LockedError:
            pass
    return entered, overlaps


def test_holders_of_a_lock_never_overlap(tmp_path: Path) -> None:
    """The file is removed while the lock is held: a process that waits for the removed file must notice this."""
    with multiprocessing.get_context("fork" if os.name == "posix" else "spawn").Pool(8) as pool:
        results = pool.starmap(_critical_sections, [(tmp_path, number) for number in range(8)], chunksize=1)
    assert [overlaps for _, overlaps in results] == [0] * 8
    assert [entered for entered, _ in results[::2]] == [200] * 4
    assert sum(entered for entered, _ in results[1::2]) > 0


@pytest.mark.skipif(os.name != "posix", reason="a directory with an open file is not replaced")
def test_the_lock_in_a_directory_that_replaced_another_is_left_alone(tmp_path: Path) -> None:
    """Another process holds the lock: without its file, a third process could acquire it, too."""
    place = tmp_path / "place"
    place.mkdir()
    with locked(place / "lock"):
        place.rename(tmp_path / "old")
        place.mkdir()
        (place / "lock").write_text("of another")
    assert (place / "lock").read_text() == "of another"
    assert list((tmp_path / "old").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="a directory with an open file is not replaced")
def test_a_lock_is_of_the_directory_that_is_there_when_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    acquire_really = filelock.FileLock.acquire
    attempts: list[Any] = []

    def acquire(lock: filelock.FileLock, *args: Any, **kwargs: Any) -> Any:
        found = acquire_really(lock, *args, **kwargs)
        if not attempts:
            place.rename(tmp_path / "old")
            place.mkdir()
        attempts.append(lock)
        return found

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with locked(place / "lock"):
        assert len(attempts) == 2 and (place / "lock").exists()
    assert list(place.iterdir()) == []


def test_a_lock_that_its_holder_removes_at_this_moment_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def acquire(lock: filelock.FileLock, *args: Any, **kwargs: Any) -> Any:
        attempts.append(lock)
        if len(attempts) == 1:
            raise filelock.Timeout(str(tmp_path / "lock"))
        return acquire_really(lock, *args, **kwargs)

    acquire_really = filelock.FileLock.acquire
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with locked(tmp_path / "lock", wait=False):
        assert len(attempts) == 2


@pytest.mark.skipif(os.name != "posix", reason="makes symbolic links")
def test_planted_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, place = tmp_path / "victim", tmp_path / "place"
    victim.write_text("mine")
    place.mkdir()
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    for name in (".file.tmp", ".file.guessed.tmp", "lock", "arrays"):
        (place / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(place / "file", b"theirs")
    with pytest.raises(OSError, match="lock"), locked(place / "lock", wait=False):
        pass
    with pytest.raises(FileExistsError):
        ArrayWriter(place / "arrays")
    monkeypatch.undo()
    write_atomically(place / "file", b"theirs")
    assert victim.read_text() == "mine" and (place / "file").read_bytes() == b"theirs"
    (place / f".csplade_postings-{os.getpid()}").symlink_to(victim)
    with publishing(place, "postings") as path:
        writer = ArrayWriter(path)
        writer.finish({})
    assert victim.read_text() == "mine" and not (place / "postings").is_symlink()


ENTRY = {"bytes": 1, "sha256": "0"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "directory"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "limit"),
        ("[]", "list"),
        ('{"files": 3}', "int"),
        ("\ufeff{}", "BOM"),
        (json.dumps({"files": {"a": {**ENTRY, "bytes": "1"}}}), "an entry is not a file with size and digest"),
        (json.dumps({"files": {"a": {**ENTRY, "sha256": 5}}}), "an entry is not a file with size and digest"),
        (json.dumps({"files": {"../a": ENTRY}}), "an entry is not a file with size and digest"),
        (json.dumps({"files": {"/etc/passwd": ENTRY}}), "an entry is not a file with size and digest"),
    ],
)
def test_a_manifest_of_a_stranger_is_refused_by_name(tmp_path: Path, content: str | None, what: str) -> None:
    path = tmp_path / "manifest.json"
    path.mkdir() if content is None else path.write_text(content, encoding="utf-8")
    with pytest.raises(CollectionError, match=rf"manifest\.json is damaged \(.*{what}.*\): copy it again"):
        read_manifest(path, CollectionError, "copy it again")


def test_files_with_impossible_names_are_damages(tmp_path: Path) -> None:
    names = {"x" * 5000: ENTRY, "a\0b": ENTRY}
    assert [damage[5000:] or damage for damage in damages(tmp_path, names)] == [
        " cannot be read (File name too long)", "a\0b is missing",
    ]  # fmt: skip
