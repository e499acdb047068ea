"""Search files left by another version, process or program are refused by name, or built again."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyterrier as pt
import pytest
from scipy.sparse import csr_matrix

from inside.index import ArrayFile, ArrayWriter, publishing
from inside.index import blocks as _blocks
from inside.index import builder as _builder
from inside.index import reader as _terrier
from pyterrier_csplade import ImpactIndex, ImpactIndexError, MatrixVectors
from pyterrier_csplade.index.search import (
    POSTINGS_FILE,
    Budget,
    Postings,
    algorithm,
    learned_source,
    terrier_source,
    write_postings,
)
from pyterrier_csplade.index.terrier import TerrierFiles
from support.indexes import documents

DENSE = np.array([[3, 0, 1], [0, 2, 1], [4, 1, 0]])
TERMS = ["a", "b", "c"]


def open_postings(directory: Path, docnos: tuple[str, ...] = ("d0", "d1", "d2")) -> Postings:
    directory.mkdir(exist_ok=True)
    write_postings(directory, MatrixVectors(list(docnos), csr_matrix(DENSE), TERMS))
    return Postings(directory / POSTINGS_FILE)


# ------------------------------------------------------------------------------------------------------ postings


def test_a_file_that_lost_bytes_in_its_middle_names_the_array(tmp_path: Path) -> None:
    """The end of the file, which identifies it, is intact."""
    writer = ArrayWriter(tmp_path / "file")
    writer.add("first", np.arange(100))
    writer.add("last", np.arange(100))
    writer.finish({})
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(content[:160] + content[320:])
    with pytest.raises(ImpactIndexError, match=r"file has changed since it was written \(last\): remove it"):
        ArrayFile(tmp_path / "file")


def test_postings_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents())
    monkeypatch.setattr(_builder, "FORMAT", 99)
    (index.directory / POSTINGS_FILE).unlink(missing_ok=True)
    with pytest.raises(ImpactIndexError, match=f"{POSTINGS_FILE} has another format: remove it and open the index again"):
        ImpactIndex(index.path).postings()
    monkeypatch.undo()
    with pytest.raises(ImpactIndexError, match="has another format: remove it and open the index again"):
        ImpactIndex(index.path).postings()
    (index.directory / POSTINGS_FILE).unlink()  # the solution that the message names
    assert len(ImpactIndex(index.path).postings()) == 10


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents())
    (index.directory / POSTINGS_FILE).unlink(missing_ok=True)
    (index.directory / ".csplade_postings-4194304").write_bytes(b"half")
    assert len(ImpactIndex(index.path).postings()) == 10
    assert [file.name for file in index.directory.iterdir() if file.name.startswith(".csplade")] == []


# ------------------------------------------------------------------------------------------------------ side lists


def search(postings: Postings) -> list[tuple[int, float]]:
    hits = algorithm("bmp", {"block_size": 2}).prepare(postings)(postings.query({"a": 1.0, "c": 2.0}), 3, Budget())
    return list(zip(hits.docids.tolist(), hits.scores.tolist()))


def test_side_lists_of_another_version_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    postings = open_postings(tmp_path)
    monkeypatch.setattr(_blocks, "_FORMAT", 99)
    _blocks.open_blocks(postings, 2, reordered=False)
    (path,) = tmp_path.glob("csplade_blocks-*")
    assert ArrayFile(path).metadata["identity"][0] == 99
    monkeypatch.undo()
    assert search(postings) == [(0, 5.0), (2, 4.0), (1, 2.0)]
    assert ArrayFile(path).metadata["identity"][0] == _blocks._FORMAT


def test_side_lists_that_another_process_wrote_meanwhile_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    postings, written = open_postings(tmp_path), []

    @contextmanager
    def slow(directory: Path, name: str) -> Iterator[Path]:
        """The lock is free only after the other process is done."""
        monkeypatch.setattr(_blocks, "publishing", publishing)
        _blocks.open_blocks(postings, 2, reordered=False)
        written.append((tmp_path / name).stat().st_ino)
        with publishing(directory, name) as temporary:
            yield temporary

    monkeypatch.setattr(_blocks, "publishing", slow)
    assert search(postings) == [(0, 5.0), (2, 4.0), (1, 2.0)]
    assert [path.stat().st_ino for path in tmp_path.glob("csplade_blocks-*")] == written


# ------------------------------------------------------------------------------------------------------ guides


def test_a_learned_guide_finds_documents_by_docno(tmp_path: Path) -> None:
    postings, other = open_postings(tmp_path / "one"), open_postings(tmp_path / "other", ("x", "d2", "d0"))
    source = learned_source(postings, other)
    docids, weights = source.list_of("a")
    # "x" is not in the index and gets a number that no posting has.
    assert list(zip(docids.tolist(), weights.tolist())) == [(0, 4), (3, 3)]
    docids, weights = source.list_of("never")
    assert len(docids) == len(weights) == 0 and source.largest == 4
    with pytest.raises(ImpactIndexError, match="the two indexes have no document in common"):
        learned_source(postings, open_postings(tmp_path / "third", ("x", "y", "z")))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Terrier index of words."""
    path = tmp_path_factory.mktemp("words") / "index"
    indexer = pt.terrier.TerrierIndex(str(path)).indexer(meta={"docno": 20}, stemmer=None, stopwords=None)
    indexer.index([{"docno": "d0", "text": "a b"}, {"docno": "d2", "text": "a a"}, {"docno": "y", "text": "c"}])
    return path


def changed(words: Path, to: Path, change: Callable[[str], str]) -> Path:
    """A copy of an index with other properties."""
    to.mkdir()
    for file in words.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    properties = to / "data.properties"
    properties.write_text(change(properties.read_text()))
    return to


def test_a_terrier_index_of_other_documents_is_no_guide(words: Path, tmp_path: Path) -> None:
    postings = open_postings(tmp_path / "one", ("u", "v", "w"))
    with pytest.raises(ImpactIndexError, match=f"the index and {re.escape(str(words))} have no document in common"):
        terrier_source(postings, words, 0.9, 0.4)


def test_a_terrier_index_with_two_stemmers_is_no_guide(words: Path, tmp_path: Path) -> None:
    path = changed(words, tmp_path / "two", lambda text: re.sub("termpipelines=.*", "termpipelines=Stopwords,One,Two", text))
    with pytest.raises(ImpactIndexError, match=r"several term pipelines \(One, Two\) cannot be a guide"):
        terrier_source(open_postings(tmp_path / "one"), path, 0.9, 0.4)


# ------------------------------------------------------------------------------------------------------ Terrier's files


def test_terrier_indexes_of_another_kind(words: Path, tmp_path: Path) -> None:
    assert TerrierFiles(words).docnos() == ["d0", "d2", "y"]
    no_lookup = changed(words, tmp_path / "no", lambda text: re.sub("reverse-key-names=.*", "reverse-key-names=url", text))
    with pytest.raises(ImpactIndexError, match=r"no is not an index of impacts .* \(it cannot look up docnos\): build it"):
        TerrierFiles(no_lookup).docnos()
    several = changed(words, tmp_path / "several", str)
    files = TerrierFiles(several)
    files.lexicon["bit"] |= 1 << 5  # the number of the file is in the upper bits
    files.lexicon.tofile(several / "data.lexicon.fsomapfile")
    with pytest.raises(ImpactIndexError, match=r"several is not an index of .* \(its postings are in several files\)"):
        TerrierFiles(several)


def test_lists_are_decoded_alike_with_and_without_numba(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [[1, 1, 0], [2, 0, 0], [0, 0, 1]]  # a, b, c in d0, d2, y
    with_numba = _terrier.decoder()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyterrier_csplade.index.search.kernels.common", None)
        assert _terrier.decoder() is _terrier.decode_in_python
    files = TerrierFiles(words)
    order = [files.terms.index(term) for term in TERMS]
    for decode in (with_numba, _terrier.decode_in_python):
        monkeypatch.setattr(_terrier, "decoder", lambda decode=decode: decode)
        assert files.matrix().toarray()[:, order].tolist() == expected
