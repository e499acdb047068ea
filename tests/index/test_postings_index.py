"""Postings next to an index: built once, by whichever process comes first, and never from damaged or outdated files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inside.index import ArrayFile, read_whole, workspace
from pyterrier_csplade import ImpactIndex, ImpactIndexError
from pyterrier_csplade.index.search import POSTINGS_FILE
from pyterrier_csplade.storage import locked as acquire
from support.indexes import documents


def test_postings_of_another_index_are_built_again(tmp_path: Path) -> None:
    one, other = (ImpactIndex(tmp_path / str(count)).index(documents(count)) for count in (10, 20))
    one.postings(), other.postings()
    (one.directory / POSTINGS_FILE).write_bytes((other.directory / POSTINGS_FILE).read_bytes())
    assert len(ImpactIndex(one.path).postings()) == 10


def test_plain_terrier_index(tmp_path: Path) -> None:
    """Without a manifest, changed files show that the index was built again."""
    index = ImpactIndex(tmp_path / "index").index(documents(10))
    (index.directory / "csplade_manifest.json").unlink()
    (index.directory / "pt_meta.json").write_text('{"type": "sparse_index", "format": "terrier"}')
    assert len(ImpactIndex(index.path).postings()) == 10
    inode = (index.directory / POSTINGS_FILE).stat().st_ino
    ImpactIndex(index.path).postings()
    assert (index.directory / POSTINGS_FILE).stat().st_ino == inode
    (index.directory / "data.properties").touch()
    ImpactIndex(index.path).postings()
    assert (index.directory / POSTINGS_FILE).stat().st_ino != inode


def test_other_kinds_of_terrier_index_are_refused(tmp_path: Path) -> None:
    import pyterrier as pt

    pt.IterDictIndexer(str(tmp_path / "blocks"), blocks=True).index([{"docno": "d", "text": "some words"}])
    with pytest.raises(ImpactIndexError, match="index.inverted"):
        ImpactIndex(tmp_path / "blocks").postings()


def test_changed_list_is_found_when_it_is_read(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents(10))
    index.postings()
    path = index.directory / POSTINGS_FILE
    content = bytearray(path.read_bytes())
    start = ArrayFile(path)._entries["impacts"]["start"]
    content[start] ^= 1  # of the first term, "a"
    path.write_bytes(content)
    search = ImpactIndex(index.path).retriever(algorithm="exhaustive")
    assert len(search([{"qid": "1", "query_toks": {"Ġb3": 1.0}}])) == 1
    with pytest.raises(ImpactIndexError, match="postings of 'a'.*remove it"):
        search([{"qid": "1", "query_toks": {"a": 1.0}}])
    with pytest.raises(ImpactIndexError, match="impacts.*remove it"):
        ImpactIndex(index.path).verify()
    path.unlink()
    search = ImpactIndex(index.path).retriever(algorithm="exhaustive")
    assert len(search([{"qid": "1", "query_toks": {"a": 1.0}}])) == 10
    ImpactIndex(index.path).verify()


@pytest.mark.parametrize("name", ["data.inverted.bf", "data.lexicon.fsomapfile", "data.meta-0.fsomapfile"])
def test_damaged_index_without_a_manifest_never_becomes_postings(tmp_path: Path, name: str) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents(50))
    (index.directory / "csplade_manifest.json").unlink()
    path = index.directory / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImpactIndexError, match="damaged|Terrier"):
        index.postings()
    assert not (index.directory / POSTINGS_FILE).exists()


def test_damaged_index_with_a_manifest_never_becomes_postings(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents(50))
    path = index.directory / "data.inverted.bf"
    content = bytearray(path.read_bytes())
    content[3] ^= 16
    path.write_bytes(content)
    with pytest.raises(ImpactIndexError, match="data.inverted.bf has changed"):
        index.postings()


def test_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents())

    def refuse(*args: Any) -> Any:
        raise PermissionError("read-only")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(ImpactIndexError, match="cannot write the postings.*read-only"):
        index.postings()


def test_threads_build_once(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents(200))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(ImpactIndex(index.path).postings()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 4
    assert not [path for path in index.directory.iterdir() if path.name.startswith(".")]


def test_two_processes_search_while_a_third_rebuilds(tmp_path: Path) -> None:
    """Each answer belongs to one index, old or new: ``d0`` scores 1 in an index of 30 documents."""
    path = tmp_path / "index"
    ImpactIndex(path).index(documents(30))
    search = """
import sys
from pyterrier_csplade import ImpactIndex
sizes = set()
while sizes != {30, 50} or len(sizes) < 2:
    rows = ImpactIndex(sys.argv[1]).retriever(algorithm="exhaustive")([{"qid": "1", "query_toks": {"a": 2.0}}])
    assert sorted(row["score"] for row in rows) == [2.0 * (i + 1) for i in range(len(rows))], rows
    assert sorted(row["docno"] for row in rows) == sorted(f"d{i}" for i in range(len(rows)))
    sizes.add(len(rows))
print("ok", file=sys.stderr)
"""
    readers = [subprocess.Popen([sys.executable, "-c", search, str(path)], stderr=subprocess.PIPE) for _ in range(2)]
    while any(reader.poll() is None for reader in readers):
        for count in (50, 30):
            ImpactIndex(path).toks_indexer(overwrite=True).index(documents(count))
    for reader in readers:
        output = reader.communicate()[1]
        assert reader.returncode == 0, output.decode()


def test_the_lock_of_a_replaced_directory_protects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that got the lock of the old directory must not remove what another writes into the new one."""
    path, unfinished = tmp_path / "index", ".csplade_postings-1"
    for name, count in (("index", 30), ("new", 50)):
        ImpactIndex(tmp_path / name).index(documents(count))
    (tmp_path / "new" / unfinished).touch()
    found: list[bool] = []

    @contextmanager
    def locked(place: Path, **settings: Any) -> Iterator[None]:
        found.append((path / unfinished).exists())
        with acquire(place, **settings):
            if len(found) == 1:
                path.rename(tmp_path / "old")
                (tmp_path / "new").rename(path)
            yield

    monkeypatch.setattr(workspace, "locked", locked)
    ImpactIndex(path).postings()
    assert found[:2] == [False, True], "the second process waits for the lock of the new directory"
    assert not (path / unfinished).exists()


def test_an_index_replaced_by_an_equal_one_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "index"
    ImpactIndex(path).index(documents(10))
    calls = []

    def read() -> str:
        calls.append(1)
        if len(calls) > 1:
            return "whole"
        shutil.copytree(path, tmp_path / "equal")
        path.rename(tmp_path / "old")
        (tmp_path / "equal").rename(path)
        raise FileNotFoundError("a file of the index that was here before")

    assert read_whole(path, read) == "whole"


def test_lists_need_no_java(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents(10))
    code = """
import sys
import pyterrier as pt
from pyterrier_csplade import ImpactIndex
rows = ImpactIndex(sys.argv[1]).retriever(algorithm="exhaustive", num_results=2)([{"qid": "1", "query_toks": {"a": 0.5}}])
print([(row["docno"], row["score"]) for row in rows], pt.java.started(), "torch" in sys.modules)
"""
    process = subprocess.run([sys.executable, "-c", code, str(index.path)], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[('d9', 5.0), ('d8', 4.5)] False False"


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive", "maxscore"])
def test_retrievers_ask_an_index_that_was_built_again_for_its_own_terms(tmp_path: Path, algorithm: str) -> None:
    index = ImpactIndex(tmp_path / "index").index([{"docno": "a", "toks": {"x": 1}}])
    retriever, query = index.retriever(algorithm=algorithm), pd.DataFrame([{"qid": "1", "query_toks": {"x": 1.0, "y": 3.0}}])
    assert retriever.transform(query)["score"].tolist() == [1.0]
    index.toks_indexer(overwrite=True).index([{"docno": "b", "toks": {"y": 2}}])
    assert retriever.transform(query)["score"].tolist() == [6.0]
