"""Reading collections: too large for digests, mixed, damaged inside; lookups by docno; and shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from inside.collection import Lookup, ShardFile, encoding, opened, pack
from inside.storage import manifest
from pyterrier_csplade import CSPLADE, CollectionError, DataError, EncodedCollection
from support.vector_collections import content, documents, encode


@pytest.fixture(scope="module")
def pristine(csplade: CSPLADE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pristine") / "c"
    encode(path, csplade)
    return path


@pytest.fixture
def large(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A collection that counts as too large to compare digests on opening."""
    monkeypatch.setattr(manifest, "HASHED_ON_OPENING", 1)
    return shutil.copytree(pristine, tmp_path / "c")


def replace(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes but not the size."""
    raw = path.read_bytes()
    assert old in raw and len(old) == len(new)
    path.write_bytes(raw.replace(old, new, 1))


def change_manifest(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((path / "manifest.json").read_text())
    change(values)
    (path / "manifest.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("plan.json", b'"top_k"', b'"pot_k"', r"plan.json is damaged \(.*pot_k.*encode into another directory"),
        ("plan.json", b'"format": 1', b'"format": 2', "plan.json has a newer format: update pyterrier_csplade"),
        ("plan.json", b"{", b"[", r"plan.json is damaged \("),
        ("terms.json", b"{", b"[", r"terms.json is damaged \(.*copy the collection again"),
        ("terms.json", b'"terms"', b'"sterm"', r"terms.json is damaged \('terms'\): copy"),
        ("terms.json", b'"', b"\xff", r"terms.json is damaged \(.*copy"),
        (
            "terms.json",
            b"Zw",
            b"zW",
            "terms.json does not contain the vocabulary of the contract: files of different collections",
        ),
    ],
)
def test_damage_that_keeps_the_size(large: Path, name: str, old: bytes, new: bytes, message: str) -> None:
    if old == b"Zw":  # one term for another
        term = next(t for t in json.loads((large / name).read_text())["terms"] if t.isascii() and t.isalpha() and len(t) > 2)
        old, new = f'"{term}"'.encode(), f'"{term[::-1].swapcase()}"'.encode()
    replace(large / name, old, new)
    with pytest.raises(CollectionError, match=message):
        len(EncodedCollection(large))


def test_a_damaged_plan_is_not_resumed_from(csplade: CSPLADE, large: Path) -> None:
    replace(large / "plan.json", b'"top_k"', b'"pot_k"')
    before = content(large)
    with pytest.raises(CollectionError, match="plan.json is damaged .*restore it, or encode into another directory"):
        encode(large, csplade)
    assert content(large) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "manifest.json has a newer format: update pyterrier_csplade"),
        (
            lambda m: m.update(documents="23"),
            r"manifest.json is damaged \(its number of documents is not an integer\): encode again",
        ),
        (lambda m: m.update(postings=True), "its number of postings is not an integer"),
        (lambda m: m.pop("empty"), r"manifest.json is damaged \(its number of empty is"),
        (lambda m: m["files"].pop("shard-000003.safetensors"), r"manifest.json is damaged \(a shard is missing\)"),
        (lambda m: m["files"].update(x=3), r"manifest.json is damaged"),
        (lambda m: m["files"].update({"x" * 5000: m["files"].pop("terms.json")}), "c is damaged: x{5000} cannot be read"),
        (lambda m: m["files"].update({"a\0b": m["files"].pop("terms.json")}), "c is damaged: a\0b is missing"),
    ],
)
def test_a_manifest_with_other_values(large: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    change_manifest(large, change)
    with pytest.raises(CollectionError, match=message):
        len(EncodedCollection(large))


@pytest.mark.parametrize(
    ("name", "message"),
    [("plan.json", "c is not an encoded collection: plan.json is missing"), ("terms.json", "terms.json is damaged")],
)
def test_a_file_that_is_neither_there_nor_in_the_manifest(large: Path, name: str, message: str) -> None:
    (large / name).unlink()
    change_manifest(large, lambda m: m["files"].pop(name))
    with pytest.raises(CollectionError, match=message):
        len(EncodedCollection(large))


def test_a_total_that_the_shards_do_not_add_up_to(large: Path) -> None:
    change_manifest(large, lambda m: m.update(postings=m["postings"] + 1))
    with pytest.raises(CollectionError, match=f"c contains {23 * 12} postings, not {23 * 12 + 1}: encode again"):
        EncodedCollection(large).verify()


def test_a_shard_that_is_removed_while_the_collection_is_open(large: Path) -> None:
    collection = EncodedCollection(large)
    assert len(collection) == 23
    (large / "shard-000004.safetensors").unlink()
    with pytest.raises(CollectionError, match="shard-000004.safetensors is missing: encode again with the same command"):
        list(collection.get_corpus_iter())


def test_leftovers_of_a_killed_process_go_when_the_collection_is_complete(csplade: CSPLADE, large: Path) -> None:
    whole = content(large)
    (large / ".shard-000001.safetensors.tmp").write_bytes(b"half")  # of a shard that another process has finished since
    (large / "manifest.json").unlink()
    encode(large, csplade)
    assert content(large) == whole


@pytest.mark.parametrize("size", [1, 2, 5])
def test_windows_that_end_within_or_with_a_shard_change_nothing(
    csplade: CSPLADE, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(encoding, "_WINDOW", {"cpu": size})
    found = encode(tmp_path / "c", csplade)
    expected = EncodedCollection(pristine)
    assert list(found.get_corpus_iter()) == list(expected.get_corpus_iter())
    assert (tmp_path / "c" / "manifest.json").read_text() == (pristine / "manifest.json").read_text()


def test_arguments_and_progress(csplade: CSPLADE, pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete = EncodedCollection(tmp_path / "c", encoder=csplade.doc_encoder())
    with pytest.raises(ValueError, match=r"can only be read: encode with EncodedCollection\(path\)"):
        complete.encode(csplade.doc_encoder(), documents())
    for wrong in (0, "x", 2.5):
        with pytest.raises(ValueError, match=f"shard_size must be a whole number of at least 1, found {wrong!r}"):
            encode(tmp_path / "c", csplade, shard_size=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_empty must be a number from 0 to 1, found 'x'"):
        EncodedCollection(tmp_path / "c").encode(csplade.doc_encoder(), documents(), max_empty="x")  # type: ignore[arg-type]
    for encoder in (None, csplade.query_encoder()):
        with pytest.raises(TypeError, match="encoder must be csplade.doc_encoder"):
            EncodedCollection(tmp_path / "c").encode(encoder, documents())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="document 1 must be a dict, found 'docno'.*to_dict"):
        EncodedCollection(tmp_path / "c").encode(csplade.doc_encoder(), pd.DataFrame(documents()))  # type: ignore[arg-type]
    assert len(encode(tmp_path / "d", csplade, shard_size=np.int64(7))) == 23  # type: ignore[arg-type]
    shown = EncodedCollection(pristine).get_corpus_iter(verbose=True)
    assert len(shown) == 23 and [d["docno"] for d in shown] == [d["docno"] for d in documents()]
    assert "23/23" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ lookups


@pytest.mark.parametrize("docno", [7, 7.5, None, b"d7", float("nan"), ("d7",)])
def test_a_docno_that_is_not_text_is_not_in_the_collection(pristine: Path, docno: Any) -> None:
    frame = pd.DataFrame({"docno": pd.Series(["d3", docno], dtype=object)})
    with pytest.raises(DataError, match=r"document .* is not in .*c \(1 are missing\)"):
        EncodedCollection(pristine)(frame)


def shard_files(directory: Path, names: list[list[str]]) -> Any:
    for number, docnos in enumerate(names):
        matrix = csr_matrix((len(docnos), 3), dtype=np.int32)
        shard = pack(number, docnos, matrix, truncated=0, input_sha256="", recipe="")
        (directory / f"{number}").write_bytes(shard.content)
    return [ShardFile(directory / f"{number}", 3) for number in range(len(names))]


@pytest.mark.parametrize("collide", [False, True])
@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=20), data=st.data())
def test_lookups_equal_a_dict(
    tmp_path_factory: pytest.TempPathFactory, collide: bool, names: list[str], data: st.DataObject
) -> None:
    """Also if the hashes of all docnos are equal."""
    names = [name for name in names if name.isprintable()]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(names)), max_size=3)))
    parts = [names[a:b] for a, b in zip([0, *cuts], [*cuts, len(names)]) if a < b]
    expected = {docno: (shard, row) for shard, part in enumerate(parts) for row, docno in enumerate(part)}
    asked = [*names[::-1], *names[:2], "", "never", "d\0", *(name + "\0" for name in names[:3])]
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(opened, "_hash", lambda docnos: np.zeros(len(docnos), np.uint64))
        found = Lookup(shard_files(tmp_path_factory.mktemp("lookup"), parts)).find(asked)
    assert found == [expected.get(docno) for docno in asked]


# ------------------------------------------------------------------------------------------------------ shards


EXTREMES = {
    "float32": [np.float32(1e-45), np.float32(3.4028235e38), np.float32(0.1), np.float32(1)],
    "int32": [1, 255, 256, 65_535, 65_536, 2**31 - 1],
    "int64": [1, 65_535, 65_536, 2**31 - 1],
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_shard_gives_back_the_matrix_and_its_rows(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 6))
    dtype = data.draw(st.sampled_from(sorted(EXTREMES)))
    weights = st.one_of(st.just(0), st.sampled_from(EXTREMES[dtype]))
    dense = np.array(data.draw(st.lists(weights, min_size=rows * columns, max_size=rows * columns)), dtype)
    dense = dense.reshape(rows, columns)
    matrix = csr_matrix(dense)
    for row in range(rows):  # columns in another order than a shard's
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        matrix.indices[part], matrix.data[part] = matrix.indices[part][::-1].copy(), matrix.data[part][::-1].copy()
    matrix.has_sorted_indices = False
    names = [f"ü{i}" * i + "d" for i in range(rows)]
    shard = pack(3, names, matrix, truncated=1, input_sha256="i", recipe="r")
    path = tmp_path_factory.mktemp("shard") / "shard"
    path.write_bytes(shard.content)
    file = ShardFile(path, columns)
    assert len(file) == rows and file.docnos == names == [file.docno(row) for row in range(rows)]
    assert shard.record.empty == int((dense == 0).all(axis=1).sum()) and shard.record.postings == np.count_nonzero(dense)
    start, end = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    found = file.rows(start, end)
    assert found.shape == (end - start, columns) and found.has_canonical_format
    assert found.dtype == (np.float32 if dtype == "float32" else np.int32)
    np.testing.assert_array_equal(found.toarray(), dense[start:end])
    # Values are stored in the smallest of three types that holds them.
    stored = {np.dtype(np.float32)} if dtype == "float32" else {np.dtype(np.uint16 if dense.max() < 2**16 else np.int32)}
    assert {safetensors.numpy.load(shard.content)["data"].dtype} == stored
