"""Kills, full disks and other writers: the path holds the old index, the new one, or none, and always a whole one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyterrier_csplade import ImpactIndex, ImpactIndexError, _workspace

OLD, NEW = 50, 400

# Builds over an index again and again, and says when it starts; from dictionaries, or from matrices when it is asked to.
WRITER = """
import sys
import numpy as np
from scipy.sparse import csr_matrix
from pyterrier_csplade import ImpactIndex, MatrixVectors
index, count, rounds = ImpactIndex(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
len(index)  # starts Java
for number in range(rounds):
    print("start", flush=True)
    if sys.argv[4:]:
        columns = np.array([[0, 1 + i % 50] for i in range(count)]).ravel()
        impacts = np.array([[1, i + 1] for i in range(count)]).ravel()
        matrix = csr_matrix((impacts, columns, np.arange(0, 2 * count + 1, 2)), shape=(count, 51))
        vectors = MatrixVectors([f"n{i}" for i in range(count)], matrix, ["all", *(f"t{i}" for i in range(50))])
        index.index_vectors(vectors, overwrite=True)
    else:
        stream = ({"docno": f"n{i}", "toks": {"all": 1, f"t{i % 50}": i + 1}} for i in range(count))
        index.toks_indexer(overwrite=True).index(stream)
print("end", flush=True)
"""

# Dies when a function of a module is called, before or after it has run.
DYING_WRITER = """
import importlib, os, signal, sys
from pyterrier_csplade import ImpactIndex
module, name, after = importlib.import_module(sys.argv[2]), sys.argv[3], sys.argv[4] == "after"
original = getattr(module, name)
def dying(*args, **kwargs) -> None:
    if after:
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, dying)
stream = ({"docno": f"n{i}", "toks": {"all": 1, f"t{i % 50}": i + 1}} for i in range(400))
ImpactIndex(sys.argv[1]).toks_indexer(overwrite=True).index(stream)
"""


def documents(count: int, prefix: str = "o") -> Iterator[dict[str, Any]]:
    return ({"docno": f"{prefix}{i}", "toks": {"all": 1, f"t{i % 50}": i + 1}} for i in range(count))


def found(path: Path) -> int:
    """How many documents a search for all finds in a verified index."""
    index = ImpactIndex(path)
    index.verify()
    result = index.retriever(num_results=10_000).transform(pd.DataFrame([{"qid": "q", "query_toks": {"all": 1.0}}]))
    assert result["docno"].str[1:].tolist() == [str(i) for i in range(len(index))]
    return len(result)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None and process.stderr is not None
    if process.stdout.readline().strip() != line:
        raise AssertionError(process.stderr.read())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "index"
    ImpactIndex(path).index(documents(OLD))
    return path


def kill_and_check(path: Path, seconds: float, *more: str) -> int:
    """Kill a writer some time after its start; whoever comes next finds a whole index and can write."""
    process = start(WRITER, path, NEW, 1, *more)
    wait_for(process, "start")
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return found(path)


def clean_writer_leaves_nothing_else(path: Path) -> None:
    ImpactIndex(path).toks_indexer(overwrite=True).index(documents(OLD))
    assert found(path) == OLD
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_kill_at_any_time_leaves_a_whole_index(path: Path) -> None:
    for seconds in (0.05, 0.6):
        assert kill_and_check(path, seconds) in (OLD, NEW)
    clean_writer_leaves_nothing_else(path)


@pytest.mark.slow
@pytest.mark.parametrize("source", [[], ["matrices"]])
def test_kill_at_twenty_random_instants_leaves_a_whole_index(path: Path, source: list[str]) -> None:
    generator = random.Random(len(source))
    outcomes = [kill_and_check(path, generator.uniform(0, 0.8), *source) for _ in range(20)]
    assert set(outcomes) <= {OLD, NEW}
    clean_writer_leaves_nothing_else(path)


@pytest.mark.parametrize(
    ("module", "name", "when", "outcome"),
    [
        ("pyterrier_csplade._indexer", "write_manifest", "before", OLD),
        ("pyterrier_csplade._indexer", "publish", "before", OLD),
        ("pyterrier_csplade._indexer", "publish", "after", NEW),
    ],
)
def test_kill_around_the_publication(path: Path, module: str, name: str, when: str, outcome: int) -> None:
    process = start(DYING_WRITER, path, module, name, when)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert found(path) == outcome
    clean_writer_leaves_nothing_else(path)


def test_kill_between_two_renames_is_repaired_by_the_next_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "_exchange", lambda source, target: False)
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(KeyboardInterrupt), _workspace.workspace(target) as directory:
        (directory / "new").mkdir()
        monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)  # as if killed
        target.rename(directory / "replaced")
        raise KeyboardInterrupt
    monkeypatch.undo()
    assert not target.exists()
    with _workspace.workspace(target):
        assert (target / "old").exists()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("before", [None, "empty", "full"])
def test_publication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr(_workspace, "_exchange", lambda source, target: False)
    target = tmp_path / "target"
    if before:
        target.mkdir()
    if before == "full":
        (target / "old").touch()
    with _workspace.workspace(target) as directory:
        (directory / "built").mkdir()
        (directory / "built" / "new").touch()
        _workspace.publish(directory / "built", target)
    assert [entry.name for entry in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_second_writer_is_refused_at_once_and_the_first_goes_on(path: Path) -> None:
    def stream() -> Iterator[dict[str, Any]]:
        yield from documents(10)
        with pytest.raises(ImpactIndexError, match=f"process {os.getpid()}"):
            ImpactIndex(path).toks_indexer(overwrite=True).index(documents(3))
        process = start(WRITER, path, 3, 1)
        _, errors = process.communicate()
        assert process.returncode == 1 and f"is being written by the process {os.getpid()}" in errors
        yield {"docno": "o10", "toks": {"all": 1}}

    ImpactIndex(path).toks_indexer(overwrite=True).index(stream())
    assert found(path) == 11


def test_lock_of_a_killed_writer_is_void(path: Path) -> None:
    process = start(DYING_WRITER, path, "pyterrier_csplade._indexer", "Spool", "before")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list(path.parent.glob(".csplade-*.lock"))) == 1
    clean_writer_leaves_nothing_else(path)


def test_reader_sees_the_old_or_the_new_index_while_it_is_overwritten(path: Path) -> None:
    reader = ImpactIndex(path)
    query = pd.DataFrame([{"qid": "q", "query_toks": {"all": 1.0}}])
    before = reader.retriever().transform(query)
    process = start(WRITER, path, NEW, 2)
    wait_for(process, "start")
    seen = set()
    while process.poll() is None:
        seen.add(found(path))
        pd.testing.assert_frame_equal(reader.retriever().transform(query), before)  # an open reader stays with its index
    assert process.returncode == 0
    assert seen <= {OLD, NEW} and found(path) == NEW


def test_index_replaced_while_it_is_opened_is_opened_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyterrier_csplade import _index, _manifest

    original = _manifest.check_on_opening
    calls: list[int] = []

    def replace_first(directory: Path) -> None:
        original(directory)
        if not calls:
            calls.append(1)
            ImpactIndex(path).toks_indexer(overwrite=True).index(documents(7))

    monkeypatch.setattr(_index, "check_on_opening", replace_first)
    assert found(path) == 7


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs more rights")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a tmpfs, or takes rights away")
def test_directory_that_cannot_be_written_is_refused_and_read_all_the_same(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        place = tmp_path / "place"
        if os.geteuid() == 0:  # may write everywhere but on what is mounted to be read
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
