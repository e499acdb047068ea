"""Directories of the user's cache."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from inside.storage import cache_directory, cached


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTERRIER_CSPLADE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def fill(directory: Path) -> None:
    (directory / "below").mkdir()
    (directory / "below" / "file").write_text("content")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert cache_directory() == home
    monkeypatch.setenv("PYTERRIER_CSPLADE_HOME", "~/mine")
    assert cache_directory() == Path.home() / "mine"
    monkeypatch.delenv("PYTERRIER_CSPLADE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/pyterrier_csplade")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache/pyterrier_csplade"


def test_a_directory_is_made_once_by_several_at_a_time(home: Path) -> None:
    made = []

    def make(directory: Path) -> None:
        made.append(directory)
        time.sleep(0.2)
        fill(directory)

    threads = [threading.Thread(target=lambda: cached("one", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and (home / "one/below/file").read_text() == "content"
    assert os.listdir(home) == ["one"]


def test_a_failure_leaves_nothing_and_the_next_one_removes_what_a_kill_left(home: Path) -> None:
    def fail(directory: Path) -> None:
        fill(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("one", fail)
    assert os.listdir(home) == []
    fill_leftover = home / ".one-abcdef" / "made"
    fill_leftover.mkdir(parents=True)
    assert cached("one", fill) == home / "one"
    assert os.listdir(home) == ["one"]
