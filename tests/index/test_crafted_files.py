"""Files whose digests fit, as somebody would craft them, are refused by name before compiled loops read them."""

from __future__ import annotations

import re
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyterrier_csplade import ImpactIndex, ImpactIndexError
from support.mutations import QUERY, packed, sign_manifest, unpacked
from support.paths import TESTS

Arrays = dict[str, np.ndarray]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TESTS / "fixtures" / "landed" / "index", tmp_path / "index"))


def search(directory: Path, algorithm: str) -> pd.DataFrame:
    return ImpactIndex(directory).retriever(algorithm=algorithm)(
        pd.DataFrame([{"qid": "q", "query_toks": QUERY | dict.fromkeys(string.ascii_letters, 1.0)}])
    )


def value(name: str, at: int, to: int) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name].reshape(-1)[at] = to

    return change


def replaced(name: str, by: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = by(arrays[name])

    return change


POSTINGS, REORDERED = "csplade_postings.bin", "csplade_blocks-4-reordered.bin"
CRAFTED = {
    "documents beyond the collection": (POSTINGS, "exhaustive", replaced("docids", lambda a: a + 1000)),
    "negative documents": (POSTINGS, "exhaustive", replaced("docids", lambda a: -a - 1)),
    "documents that repeat": (POSTINGS, "exhaustive", replaced("docids", lambda a: a * 0)),
    "documents of another type": (POSTINGS, "exhaustive", replaced("docids", lambda a: a.astype(np.int64))),
    "lists that end beyond the file": (POSTINGS, "exhaustive", value("starts", -1, 2**40)),
    "lists that overlap": (POSTINGS, "exhaustive", replaced("starts", lambda a: a[::-1].copy())),
    "a list that starts before the file": (POSTINGS, "exhaustive", value("starts", 0, -8)),
    "signed impacts": (POSTINGS, "exhaustive", replaced("impacts", lambda a: -a.astype(np.int16))),
    "impacts of 0": (POSTINGS, "exhaustive", replaced("impacts", lambda a: a * 0)),
    "another largest impact": (POSTINGS, "exhaustive", replaced("max_impacts", lambda a: a // 2)),
    "too few largest impacts": (POSTINGS, "exhaustive", replaced("max_impacts", lambda a: a[:3])),
    "half a character": (
        POSTINGS,
        "exhaustive",
        replaced("terms.text", lambda a: np.where(a == 0xC4, 65, a).astype(a.dtype)),
    ),
    "docnos that end beyond the file": (POSTINGS, "exhaustive", value("docnos.starts", -1, 2**40)),
    "docnos that are no text": (POSTINGS, "exhaustive", replaced("docnos.text", lambda a: a | 0x80)),
    "maxima that end beyond the file": (REORDERED, "bmp", value("starts", -1, 2**40)),
    "more maxima than blocks": (REORDERED, "bmp", value("starts", 1, 5)),
    "offsets beyond a list": (REORDERED, "bmp", replaced("offsets", lambda a: a + 2**20)),
    "fewer offsets": (REORDERED, "bmp", replaced("offset_starts", lambda a: a * 0)),
    "one depth": (REORDERED, "bmp", replaced("kth_impacts", lambda a: a[:1])),
    "reordered documents beyond the collection": (REORDERED, "bmp", replaced("docids", lambda a: a + 2**20)),
    "reordered documents out of order": (REORDERED, "bmp", replaced("docids", lambda a: a[::-1].copy())),
    "places beyond the collection": (REORDERED, "bmp", replaced("order", lambda a: a + 2**20)),
    "an order with a document twice": ("csplade_order.bin", "bmp", replaced("order", lambda a: a * 0)),
    "an order of fewer documents": ("csplade_order.bin", "bmp", replaced("order", lambda a: a[:-1])),
    "a guide of fewer postings": ("csplade_guide_bm25.bin", "guided", replaced("guides", lambda a: a[:-1])),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_arrays(directory: Path, case: str) -> None:
    name, algorithm, change = CRAFTED[case]
    if algorithm != "exhaustive":
        pytest.importorskip("numba")
    footer, arrays = unpacked((directory / name).read_bytes())
    change(arrays)
    (directory / name).write_bytes(packed(footer, arrays))
    with pytest.raises(ImpactIndexError, match=rf"{re.escape(name)} has changed since it was written \(.+\): remove it"):
        search(directory, algorithm)
    if name == POSTINGS:
        (directory / name).unlink()
        assert len(search(directory, algorithm)) > 0  # the solution that the message names


def test_crafted_numbers_of_blocks(tmp_path: Path) -> None:
    """Only rare terms have numbers of blocks."""
    pytest.importorskip("numba")
    toks = [{"Ġa": 1 + i % 7, **({"rare": 3} if i % 100 == 50 else {})} for i in range(400)]
    ImpactIndex(tmp_path).index({"docno": f"d{i}", "toks": document} for i, document in enumerate(toks))
    retriever = ImpactIndex(tmp_path).retriever(algorithm="bmp")
    query = pd.DataFrame([{"qid": "q", "query_toks": {"rare": 1.0}}])
    assert len(retriever(query)) == 4
    path = tmp_path / "csplade_blocks-4.bin"
    footer, arrays = unpacked(path.read_bytes())
    assert arrays["blocks"].tolist() == [12, 37, 62, 87]
    arrays["blocks"] += 150
    path.write_bytes(packed(footer, arrays))
    with pytest.raises(ImpactIndexError, match=r"csplade_blocks-4\.bin has changed since it was written \(blocks\): remove it"):
        ImpactIndex(tmp_path).retriever(algorithm="bmp")(query)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "|O"}, {"dtype": ">i4"}, {"dtype": None}, {"shape": [2**62]}, {"shape": [-1]}, {"shape": [0, 2**63]},
        {"shape": 5}, {"start": -64}, {"start": 1}, {"start": 10**30}, {"start": None},
    ],
)  # fmt: skip
def test_crafted_descriptions_of_arrays(directory: Path, entry: dict[str, Any]) -> None:
    footer, arrays = unpacked((directory / POSTINGS).read_bytes())
    footer["arrays"]["docids"].update(entry, kept=list(entry))
    (directory / POSTINGS).write_bytes(packed(footer, arrays))
    with pytest.raises(ImpactIndexError, match=rf"{POSTINGS} has changed since it was written"):
        search(directory, "exhaustive")


@pytest.mark.parametrize("algorithm", ["exhaustive", "terrier"])
def test_an_index_that_lost_its_manifest_is_refused_by_all(directory: Path, algorithm: str) -> None:
    (directory / "csplade_manifest.json").unlink()
    with pytest.raises(ImpactIndexError, match=r"csplade_manifest\.json is missing: the index is damaged"):
        search(directory, algorithm)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("num.Documents", "-1"), ("num.Documents", "0"), ("num.Documents", "9"), ("num.Documents", "2147483648"),
        ("num.Terms", ""), ("num.Terms", "1e3"), ("num.Pointers", "9" * 5000), ("max.term.length", "-20"),
        ("max.term.length", "²"), ("max.term.length", "9223372036854775807"),
    ],
)  # fmt: skip
def test_nonsense_in_the_properties(directory: Path, field: str, text: str) -> None:
    path = directory / "data.properties"
    properties = re.sub(f"(?m)^{re.escape(field)}=.*$", f"{field}={text}", path.read_text(encoding="latin-1"))
    path.write_text(properties, encoding="latin-1")
    sign_manifest(directory)
    (directory / POSTINGS).unlink()
    with pytest.raises(ImpactIndexError, match=r"data\.\S+ (is damaged|is not an index)"):
        search(directory, "exhaustive")


@pytest.mark.parametrize(("field", "place", "number"), [("documents", 69, 2**31 - 1), ("documents", 69, 0), ("byte", 77, -8)])
def test_a_crafted_lexicon(directory: Path, field: str, place: int, number: int) -> None:
    """With counts that are right in sum: the lists would take gigabytes, or would be read before the file."""
    path, size = directory / "data.lexicon.fsomapfile", 8 if field == "byte" else 4
    content = bytearray(path.read_bytes())
    before = int.from_bytes(content[place : place + size], "big")
    content[place : place + size] = number.to_bytes(size, "big", signed=True)
    if field == "documents":
        other = int.from_bytes(content[86 + place : 90 + place], "big", signed=True) + before - number
        content[86 + place : 90 + place] = other.to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    sign_manifest(directory)
    (directory / POSTINGS).unlink()
    with pytest.raises(ImpactIndexError, match=r"data\.\S+ is damaged: build the index again"):
        search(directory, "exhaustive")
    assert not (directory / POSTINGS).exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r"(?m)^index\.lexicon\.class=.*$", "index.lexicon.class=java.lang.Runtime"),
        (r"(?m)^index\.meta\.parameter_values=.*$", "index.meta.parameter_values=structureName,index"),
        (r"(?m)^termpipelines=$", "termpipelines=Stopwords"),
        (r"\Z", "index.other.class=java.lang.Runtime\n"),
        (r"\Z", "index.lexicon.class=java.lang.Runtime"),
        (r"\Z", "index.lexicon.cl\\\\u0061ss=java.lang.Runtime\n"),
        (r"\Z", " index.lexicon.class=java.lang.Runtime\n"),
        (r"\Z", "index.lexicon.class : java.lang.Runtime\n"),
        (r"(?m)^num\.Terms=", "num.Terms=\\\\\nindex.lexicon.class="),
        (r"(?m)^num\.Terms=(.*)$", r"num.Terms=\1\rindex.lexicon.class=x"),
    ],
)
def test_properties_that_java_would_obey(directory: Path, before: str, after: str) -> None:
    """Terrier makes objects of the classes that they name."""
    path = directory / "data.properties"
    original = path.read_bytes().decode("latin-1")
    path.write_bytes(re.sub(before, after, original, count=1).encode("latin-1"))
    assert path.read_bytes().decode("latin-1") != original
    sign_manifest(directory)
    with pytest.raises(ImpactIndexError, match=r"data\.properties, line \d+: .* is not written by ImpactIndex"):
        search(directory, "terrier")


@pytest.mark.parametrize(
    "change", [lambda c: b"", lambda c: c + b"x", lambda c: c[:-1], lambda c: c.replace(b"TIntHash", b"XIntHash")]
)
def test_an_object_that_java_would_read(directory: Path, change: Callable[[bytes], bytes]) -> None:
    path = directory / "data.lexicon.fsomaphash"
    path.write_bytes(change(path.read_bytes()))
    sign_manifest(directory)
    with pytest.raises(ImpactIndexError, match="fsomaphash differs from what ImpactIndex writes for this lexicon"):
        search(directory, "terrier")


@pytest.mark.parametrize("content", [b"", b"x" * 86, b"x" * 85, b"\x01\xff" + bytes(84), b"\x01\x80" + bytes(84)])
def test_a_lexicon_without_valid_characters_is_not_opened_by_java(directory: Path, content: bytes) -> None:
    (directory / "data.lexicon.fsomapfile").write_bytes(content)
    sign_manifest(directory)
    with pytest.raises(ImpactIndexError, match="fsomap"):
        search(directory, "terrier")


def test_what_is_written_passes(tmp_path: Path) -> None:
    """Terms that begin with characters of one to three bytes, some of them several times, and with the first of all."""
    toks = {"a": 1, "ab": 2, "é": 3, "éa": 4, "検": 5, "検索": 6, "\0": 9, "\ufffd": 7, "z": 8}
    ImpactIndex(tmp_path / "i").toks_indexer(meta=["docno", "näme"]).index([{"docno": "d", "toks": toks, "näme": "x"}])
    found = search_for(tmp_path / "i", {"検索": 1.0, "éa": 10.0})
    assert found["score"].tolist() == [46.0]


def search_for(directory: Path, query: dict[str, float]) -> pd.DataFrame:
    return ImpactIndex(directory).retriever()(pd.DataFrame([{"qid": "q", "query_toks": query}]))
