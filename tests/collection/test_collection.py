"""Encoded collections: content, indexing, and use as transformers."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy.sparse import vstack

from inside.collection import ShardFile, check_vectors
from pyterrier_csplade import CSPLADE, CollectionError, ContractError, DataError, EncodedCollection, ImpactIndex, Quantizer
from pyterrier_csplade.vectors import EncodedVectors
from support.indexes import docnos, search
from support.paths import ROOT, extract
from support.vector_collections import documents, encode


def test_stored_vectors_equal_those_from_the_encoder(csplade: CSPLADE, tmp_path: Path) -> None:
    collection = encode(tmp_path / "c", csplade)
    expected = csplade.doc_encoder(top_k=12)(documents())
    assert list(collection.get_corpus_iter()) == [{"docno": d["docno"], "toks": d["toks"]} for d in expected]
    assert len(collection) == len(collection.get_corpus_iter()) == 23
    assert collection.contract == csplade.contract
    assert list(collection.vocabulary) == list(csplade.vocabulary)
    assert next(iter(collection.get_corpus_iter()))["toks"].contract == csplade.contract


@pytest.mark.parametrize(("quantizer", "dtype"), [("default", np.int32), (None, np.float32), (Quantizer(1e5), np.int32)])
def test_blocks_hold_the_matrix(csplade: CSPLADE, tmp_path: Path, quantizer: Any, dtype: Any) -> None:
    collection = encode(tmp_path / "c", csplade, quantizer=quantizer, top_k=None)
    assert isinstance(collection, EncodedVectors)
    blocks = list(collection.blocks())
    assert [len(names) for names, _ in blocks] == [5, 5, 5, 5, 3]
    assert [name for names, _ in blocks for name in names] == [d["docno"] for d in documents()]
    found = vstack([matrix for _, matrix in blocks])
    weights = csplade.encode_docs([d["text"] for d in documents()]).toarray().astype(np.float64)
    scale = {"default": 100, None: 1}.get(quantizer, 1e5)
    expected = weights if quantizer is None else np.floor(weights * scale + 0.5)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-5 if quantizer is None else 1)
    assert found.has_sorted_indices and found.data.min() > 0


def test_the_files_are_as_documented(csplade: CSPLADE, tmp_path: Path) -> None:
    """The files are read with the standard library alone."""
    encode(tmp_path / "c", csplade)
    raw = (tmp_path / "c" / "shard-000001.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]

    def read(name: str) -> tuple[Any, ...]:
        start, end = header[name]["data_offsets"]
        code = {"U8": "B", "U16": "H", "I32": "i", "I64": "q"}[header[name]["dtype"]]
        assert start % struct.calcsize(code) == 0 and len(raw[: 8 + length]) % 8 == 0  # aligned, so it can be mapped
        return struct.unpack(f"<{(end - start) // struct.calcsize(code)}{code}", body[start:end])

    terms = json.loads((tmp_path / "c" / "terms.json").read_text())["terms"]
    offsets, indptr, indices, data = (read(name) for name in ("docno_offsets", "indptr", "indices", "data"))
    names = bytes(read("docno_bytes")).decode()
    vectors = {
        names[offsets[row] : offsets[row + 1]]: dict(
            zip((terms[i] for i in indices[indptr[row] : indptr[row + 1]]), data[indptr[row] : indptr[row + 1]])
        )
        for row in range(5)
    }
    assert vectors == {d["docno"]: d["toks"] for d in csplade.doc_encoder(top_k=12)(documents()[5:10])}
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert (manifest["documents"], manifest["postings"], manifest["empty"], manifest["truncated"]) == (23, 23 * 12, 0, 0)
    record = json.loads((tmp_path / "c" / "shard-000001.json").read_text())
    assert (record["shard"], record["documents"], record["postings"]) == (1, 5, 60)


@pytest.fixture
def stored(csplade: CSPLADE, tmp_path: Path) -> Path:
    """The directory of a collection."""
    encode(tmp_path / "c", csplade)
    return tmp_path / "c"


def test_it_feeds_an_index_without_a_model(csplade: CSPLADE, stored: Path, unloaded: CSPLADE, tmp_path: Path) -> None:
    collection = EncodedCollection(stored)
    index = ImpactIndex(tmp_path / "index").index(collection.get_corpus_iter())
    bulk = ImpactIndex(tmp_path / "bulk").index_vectors(collection)
    plain = (csplade.doc_encoder(top_k=12) >> ImpactIndex(tmp_path / "plain")).index(documents())
    query = dict(csplade.query_encoder().search("sparse index")["query_toks"].iloc[0])
    for built in (index, bulk):
        assert docnos(built) == docnos(plain)
        assert search(built, query) == search(plain, query) != []
        assert built.contract == csplade.contract


def test_it_is_an_artifact(csplade: CSPLADE, tmp_path: Path) -> None:
    collection = encode(tmp_path / "c", csplade)
    assert pt.inspect.artifact_type_format(collection) == ("sparse_vectors", "csplade")
    assert json.loads((tmp_path / "c" / "pt_meta.json").read_text()) == {
        "type": "sparse_vectors",
        "format": "csplade",
        "package_hint": "pyterrier-csplade",
    }
    package = collection.build_package(str(tmp_path / "c.tar.lz4"), verbose=False)
    with lz4.frame.open(package) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        extract(archive, tmp_path / "unpacked")
    unpacked = EncodedCollection(tmp_path / "unpacked")
    assert list(unpacked.get_corpus_iter()) == list(collection.get_corpus_iter())
    unpacked.verify()


# ------------------------------------------------------------------------------------------------------ as a transformer


def test_it_replaces_the_document_encoder(csplade: CSPLADE, stored: Path, unloaded: CSPLADE) -> None:
    collection = EncodedCollection(stored)
    frame = pd.DataFrame(documents()).iloc[[20, 3, 3, 11]].assign(rank=[0, 1, 2, 3])
    expected = csplade.doc_encoder(top_k=12)(frame)
    pd.testing.assert_frame_equal(collection(frame), expected)
    pd.testing.assert_frame_equal(collection(frame[["docno"]]), expected[["docno", "toks"]])
    assert "toks" not in frame


def test_documents_that_are_not_there(csplade: CSPLADE, tmp_path: Path) -> None:
    path = encode(tmp_path / "c", csplade).path
    inp = [documents(1, 100)[0], documents(1)[0], documents(1, 101)[0]]
    with pytest.raises(DataError, match=r"'d100' is not in .*c \(2 are missing\)"):
        EncodedCollection(path)(inp)
    found = EncodedCollection(path, encoder=csplade.doc_encoder(top_k=12))(inp)
    assert found == csplade.doc_encoder(top_k=12)(inp)
    with pytest.raises(ContractError, match="top_k 3 instead of 12"):
        EncodedCollection(path, encoder=csplade.doc_encoder(top_k=3))(inp)


def test_pyterrier_can_inspect_it(unloaded: CSPLADE, tmp_path: Path) -> None:
    collection = EncodedCollection(tmp_path / "none")
    assert pt.inspect.transformer_inputs(collection) == [["docno"]]
    assert pt.inspect.transformer_outputs(collection, ["docno", "text"]) == ["docno", "text", "toks"]
    assert pt.inspect.transformer_inputs(EncodedCollection("c", encoder=unloaded.doc_encoder())) == [["docno", "text"]]
    assert repr(collection) == f"EncodedCollection({str(tmp_path / 'none')!r})"
    assert collection == EncodedCollection(tmp_path / "none") != EncodedCollection(tmp_path / "other")
    assert hash(collection) == hash(EncodedCollection(tmp_path / "none"))


# ------------------------------------------------------------------------------------------------------ damage


def test_nothing_there(tmp_path: Path) -> None:
    collection = EncodedCollection(tmp_path / "none")
    assert not collection.built()
    for use in (collection.verify, lambda: len(collection), lambda: list(collection.blocks())):
        with pytest.raises(CollectionError, match="no encoded collection at .*none"):
            use()


@pytest.mark.parametrize("name", ["shard-000002.safetensors", "shard-000002.json", "terms.json", "plan.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_every_damage_is_found(csplade: CSPLADE, tmp_path: Path, name: str, damage: str) -> None:
    path = encode(tmp_path / "c", csplade).path
    file = tmp_path / "c" / name
    raw = file.read_bytes()
    file.write_bytes(raw[:-4] if damage == "cut" else raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:])
    if damage == "remove":
        file.unlink()
    for use in (EncodedCollection(path).verify, lambda: len(EncodedCollection(path))):
        with pytest.raises(CollectionError, match="encode"):
            use()


def test_a_manifest_that_leaves_the_directory(csplade: CSPLADE, tmp_path: Path) -> None:
    path = encode(tmp_path / "c", csplade).path
    manifest = tmp_path / "c" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"terms.json"', '"../terms.json"'))
    with pytest.raises(CollectionError, match="an entry is not a file"):
        len(EncodedCollection(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [0, 1, 10**6]}, "a column is out of range"),
        ({"indices": [1, 0, 3]}, "terms out of order"),
        ({"indptr": [0, 4, 3]}, "offsets are out of order"),
        ({"data": [1, 0, 1]}, "not above 0"),
        ({"data": [1, 1]}, "do not fit together"),
        ({"more": [1]}, "it contains"),
    ],
)
def test_wrong_vectors_with_right_digests(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    import safetensors.numpy

    arrays = {"docno_bytes": b"ab", "docno_offsets": [0, 1, 2], "indptr": [0, 2, 3], "indices": [0, 1, 3], "data": [1, 1, 1]}
    dtypes = {"docno_bytes": np.uint8, "indices": np.int32, "data": np.uint16}
    content = {name: np.array(list(values), dtypes.get(name, np.int64)) for name, values in {**arrays, **change}.items()}
    safetensors.numpy.save_file(content, tmp_path / "shard.safetensors")
    with pytest.raises(CollectionError, match=message):
        check_vectors(ShardFile(tmp_path / "shard.safetensors", 10))


def test_pyterrier_opens_it_by_its_files(csplade: CSPLADE, tmp_path: Path) -> None:
    """``pt.Artifact.load`` finds the class through the entry point in setup.py, if only PyTerrier is imported."""
    collection = encode(tmp_path / "c", csplade)
    root = ROOT
    declared = re.search(r'"(sparse_vectors\.\S+) = (\S+)"', (root / "setup.py").read_text())
    assert declared is not None
    # Metadata as an installation writes it; the installed metadata may be older.
    metadata = tmp_path / "site" / "some_package-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[pyterrier.artifact]\n{declared[1]} = {declared[2]}\n")
    code = "import pyterrier as pt, sys; c = pt.Artifact.load(sys.argv[1]); print(c, len(c), 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(root)])}
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c")], env=environment, capture_output=True, text=True, check=True
    )
    assert loaded.stdout == f"{collection!r} 23 False\n"
