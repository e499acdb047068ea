"""Files that are whole or absent, manifests and locks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyterrier_csplade import CollectionError
from pyterrier_csplade.storage import LockedError, damages, locked, read_manifest, write_atomically, write_manifest


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
