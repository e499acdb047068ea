"""The file of postings: its content from each source, and how damage is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from inside.index import ArrayFile
from inside.index import builder as _builder
from inside.index import reader as _terrier
from pyterrier_csplade import DataError, ImpactIndex, ImpactIndexError, MatrixVectors
from pyterrier_csplade.index.search import POSTINGS_FILE, Postings, write_postings
from support.indexes import CONTRACT, documents

TERMS = ["b", "Ġthe", "\0", "検索", "🙂", "x y", "unused", "a"]


def matrix(rows: int = 300, largest: int = 300, seed: int = 1) -> csr_matrix:
    generator = np.random.default_rng(seed)
    values = (generator.random((rows, len(TERMS))) < 0.3) * generator.integers(1, largest + 1, (rows, len(TERMS)))
    values[:, TERMS.index("unused")] = 0
    return csr_matrix(values)


def vectors(values: csr_matrix) -> MatrixVectors:
    return MatrixVectors([f"d {i}" for i in range(values.shape[0])], values, TERMS, CONTRACT)


def lists(postings: Postings) -> dict[str, tuple[list[int], list[int]]]:
    postings.check(np.arange(len(postings.terms)))
    found = (postings.list_of(number) for number in range(len(postings.terms)))
    return {term: (docids.tolist(), impacts.tolist()) for term, (docids, impacts) in zip(postings.terms, found)}


def expected(values: csr_matrix) -> dict[str, tuple[list[int], list[int]]]:
    columns = {term: csc_matrix(values)[:, column] for column, term in enumerate(TERMS)}
    return {term: (column.indices.tolist(), column.data.tolist()) for term, column in columns.items() if column.nnz}


def build(tmp_path: Path, values: csr_matrix) -> ImpactIndex:
    rows = ({TERMS[c]: int(v) for c, v in zip(row.indices, row.data)} for row in values)
    stream = ({"docno": f"d {i}", "toks": toks} for i, toks in enumerate(rows))
    return ImpactIndex(tmp_path / "index").toks_indexer(max_empty=1).index(stream)


@pytest.mark.parametrize("largest, dtype", [(255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "uint32")])
def test_postings_are_those_of_the_matrix(tmp_path: Path, largest: int, dtype: str) -> None:
    values = matrix()
    values = values.minimum(largest)
    values.data[5] = largest
    write_postings(tmp_path, vectors(values))
    postings = Postings(tmp_path / POSTINGS_FILE)
    assert lists(postings) == expected(values)
    assert str(postings.impacts.dtype) == dtype and postings.docids.dtype == np.int32
    assert list(postings.docnos) == [f"d {i}" for i in range(300)] and len(postings) == 300
    assert list(postings.terms) == sorted(set(TERMS) - {"unused"})
    assert postings.max_impacts.tolist() == [max(expected(values)[term][1]) for term in postings.terms]
    assert postings.contract == CONTRACT
    assert [path.name for path in tmp_path.iterdir()] == [POSTINGS_FILE]


@pytest.mark.parametrize("decode", ["python", "numba"])
def test_terrier_files_hold_the_same_postings(tmp_path: Path, decode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = matrix()
    values[:, 0] = 0
    values[7, 0], values[9, 0], values[8, 3], values[299, 3] = 1, 2**20, 70_000, 1
    values.eliminate_zeros()
    index = build(tmp_path, csr_matrix(values))
    if decode == "python":
        monkeypatch.setattr(_terrier, "decoder", lambda: _terrier.decode_in_python)
    assert lists(index.postings()) == expected(values)
    assert list(index.postings().docnos) == [f"d {i}" for i in range(300)]


@pytest.mark.parametrize("length", [1, 20, 42, 43, 90, 300, 4096])
def test_docnos_of_any_length(tmp_path: Path, length: int) -> None:
    docnos = ["é" * length, "d", "🙂" * max(1, length // 2), ""]
    index = ImpactIndex(tmp_path / "index").index({"docno": docno, "toks": {"a": 1}} for docno in docnos)
    assert list(index.postings().docnos) == docnos


def test_blocks_of_any_size_give_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = matrix()

    class Blocks(MatrixVectors):
        def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
            for start in range(0, 300, 70):
                yield self.docnos[start : start + 70], self.matrix[start : start + 70]

    contents = []
    for source, piece in (
        (vectors(values), 2**22),
        (Blocks(vectors(values).docnos, values, TERMS, CONTRACT), 2**22),
        (vectors(values), 3),
    ):
        monkeypatch.setattr(_builder, "_PIECE", piece)
        write_postings(tmp_path, source)
        contents.append((tmp_path / POSTINGS_FILE).read_bytes())
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("impact", [0.5, -1, 0, 2**31, np.nan, np.inf])
def test_impact_that_is_none_is_refused_with_its_docno(tmp_path: Path, impact: float) -> None:
    values = matrix().astype(np.float64)
    values.data[values.indptr[17]] = impact
    with pytest.raises(DataError, match="'d 17'"):
        write_postings(tmp_path, vectors(values))
    assert not list(tmp_path.iterdir())


def test_term_that_stands_twice_is_refused(tmp_path: Path) -> None:
    values = csr_matrix((np.array([1, 2]), np.array([3, 3]), np.array([0, 2])), shape=(1, len(TERMS)))
    with pytest.raises(DataError, match="twice"):
        write_postings(tmp_path, vectors(values))


def test_unsorted_columns_are_sorted(tmp_path: Path) -> None:
    values = csr_matrix((np.array([1, 2]), np.array([3, 1]), np.array([0, 2])), shape=(1, len(TERMS)))
    write_postings(tmp_path, vectors(values))
    assert lists(Postings(tmp_path / POSTINGS_FILE)) == {TERMS[3]: ([0], [1]), TERMS[1]: ([0], [2])}


def test_no_documents(tmp_path: Path) -> None:
    write_postings(tmp_path, vectors(csr_matrix((0, len(TERMS)), dtype=np.int32)))
    postings = Postings(tmp_path / POSTINGS_FILE)
    assert len(postings) == 0 and lists(postings) == {}
    assert len(postings.query({"a": 1.0})) == 0


def test_opened_once_and_built_again_with_the_index(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index").index(documents(10, CONTRACT))
    first = index.postings()
    inode = (index.directory / POSTINGS_FILE).stat().st_ino
    assert index.postings() is first and first.contract == CONTRACT
    assert ImpactIndex(index.path).postings().index == first.index
    assert (index.directory / POSTINGS_FILE).stat().st_ino == inode
    index.toks_indexer(overwrite=True).index(documents(20))
    assert len(index.postings()) == 20 and index.postings().contract is None
    assert lists(first)["a"][0] == list(range(10))  # a reader that opened the old file still reads it


def test_every_cut_is_found(tmp_path: Path) -> None:
    write_postings(tmp_path, vectors(matrix(20)))
    path = tmp_path / POSTINGS_FILE
    content = path.read_bytes()
    for size in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ImpactIndexError, match=POSTINGS_FILE):
            Postings(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ImpactIndexError, match=POSTINGS_FILE):
        Postings(path)


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    write_postings(tmp_path, vectors(matrix(20)))
    path = tmp_path / POSTINGS_FILE
    content = bytearray(path.read_bytes())
    file = ArrayFile(path)
    padding = set(range(len(content)))
    for entry in file._entries.values():
        size = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
        padding -= set(range(entry["start"], entry["start"] + size))
    for at in range(0, len(content), 7):
        if at in padding and at < max(entry["start"] for entry in file._entries.values()):
            continue
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises(ImpactIndexError, match=POSTINGS_FILE):
            lists(Postings(path))
        content[at] ^= 1
