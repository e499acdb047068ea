"""Kills and concurrent writers: the path has the old index, the new index or none, and never a part of one."""

from __future__ import annotations

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

from inside.index import workspace as _workspace
from pyterrier_csplade import ImpactIndex, ImpactIndexError
from support.whole_indexes import OLD, clean_writer_leaves_nothing_else, documents, found

NEW = 400

# Overwrites an index again and again, and reports when it starts; from dictionaries, or on request from matrices.
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

# Dies when a function of a module is called, before or after the function has run.
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
    """Kill a writer some time after its start; the next process finds a whole index and can write."""
    process = start(WRITER, path, NEW, 1, *more)
    wait_for(process, "start")
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return found(path)


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
        ("pyterrier_csplade.index.indexer", "write_manifest", "before", OLD),
        ("pyterrier_csplade.index.indexer", "publish", "before", OLD),
        ("pyterrier_csplade.index.indexer", "publish", "after", NEW),
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
        assert process.returncode == 1 and f"is being written by process {os.getpid()}" in errors
        yield {"docno": "o10", "toks": {"all": 1}}

    ImpactIndex(path).toks_indexer(overwrite=True).index(stream())
    assert found(path) == 11


def test_lock_of_a_killed_writer_is_void(path: Path) -> None:
    process = start(DYING_WRITER, path, "pyterrier_csplade.index.indexer", "Spool", "before")
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
    from inside.index import manifest as _manifest
    from inside.index import opened as _opened

    original = _manifest.check_on_opening
    calls: list[int] = []

    def replace_first(directory: Path, **_: Any) -> None:
        original(directory)
        if not calls:
            calls.append(1)
            ImpactIndex(path).toks_indexer(overwrite=True).index(documents(7))

    monkeypatch.setattr(_opened, "check_on_opening", replace_first)
    assert found(path) == 7
