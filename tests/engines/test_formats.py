"""Vectors as files of other tools, read by these tools or as they read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyterrier_csplade import CspladeError, DataError
from pyterrier_csplade.engines import export_ciff, export_json_vectors, export_lsr_benchmark

DOCUMENTS: list[dict[str, Any]] = [
    {"docno": "b", "toks": {"Ġdog": 120, "é": 3, "x": 0.2}},
    {"docno": "a-1", "toks": {}},
    {"docno": "c", "toks": {"Ġdog": 2.5, "Ġcat": 7}},
]
#: Rounded half up, without what becomes 0.
IMPACTS: dict[str, dict[str, int]] = {"b": {"Ġdog": 120, "é": 3}, "a-1": {}, "c": {"Ġdog": 3, "Ġcat": 7}}
QUERIES = pd.DataFrame({"qid": ["q1", "q2"], "query_toks": [{"Ġcat": 0.5, "new": 1.0}, {}]})


def test_json_vectors(tmp_path: Path) -> None:
    assert export_json_vectors(iter(DOCUMENTS), tmp_path / "v.jsonl") == 3
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == [{"id": docno, "contents": "", "vector": toks} for docno, toks in IMPACTS.items()]
    assert [path.name for path in tmp_path.iterdir()] == ["v.jsonl"]


def test_ciff_as_pyterrier_ciff_reads_it(tmp_path: Path) -> None:
    ciff = pytest.importorskip("pyterrier_ciff")
    assert export_ciff(iter(DOCUMENTS), tmp_path / "v.ciff") == 3
    index = ciff.CiffIndex(tmp_path / "v.ciff")
    found: list[dict[str, int]] = [{}, {}, {}]
    docnos = []
    for record in index:
        if hasattr(record, "postings"):
            for posting, docid in zip(record.postings, accumulate(posting.docid for posting in record.postings)):
                found[docid][record.term] = posting.tf
        else:
            docnos.append(record.collection_docid)
    assert dict(zip(docnos, found)) == IMPACTS
    assert (index.header().num_docs, index.header().num_postings_lists) == (3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["v.ciff"]


def read_as_lsr_benchmark(directory: Path, kind: str) -> dict[str, dict[str, float]]:
    """Read embeddings as ``lsr_benchmark.irds.embeddings`` of lsr-benchmark 0.1.1 does."""
    embeddings = np.load(directory / kind / f"{kind}-embeddings.npz")
    ids = (directory / kind / f"{kind}-ids.txt").read_text().strip().split("\n")
    indices, start, found = embeddings["indices"].astype("U30"), 0, {}
    for name, end in zip(ids, embeddings["indptr"][1:]):
        found[name] = dict(zip(indices[start:end].tolist(), embeddings["data"][start:end].tolist()))
        start = end
    return found


def test_lsr_benchmark(tmp_path: Path) -> None:
    assert export_lsr_benchmark(iter(DOCUMENTS), QUERIES, tmp_path / "lsr") == 3
    terms = json.loads((tmp_path / "lsr" / "terms.json").read_text(encoding="utf-8"))
    columns = {term: str(number) for number, term in enumerate(terms)}
    for kind, vectors in (
        ("doc", {document["docno"]: document["toks"] for document in DOCUMENTS}),
        ("query", dict(zip(QUERIES["qid"], QUERIES["query_toks"]))),
    ):
        expected = {name: {columns[term]: weight for term, weight in toks.items()} for name, toks in vectors.items()}
        read = read_as_lsr_benchmark(tmp_path / "lsr", kind)
        assert {name: pytest.approx(toks) for name, toks in expected.items()} == read


def test_lsr_benchmark_reads_its_directory(tmp_path: Path) -> None:
    irds = pytest.importorskip("lsr_benchmark.irds")
    export_lsr_benchmark(iter(DOCUMENTS), QUERIES, tmp_path / "lsr")
    rows = irds.embeddings("any", str(tmp_path / "lsr"), "doc")
    assert {name: dict(zip(tokens, values)) for name, tokens, values in rows} == read_as_lsr_benchmark(tmp_path / "lsr", "doc")


def to_json(documents: list[dict[str, Any]], directory: Path) -> int:
    return export_json_vectors(documents, directory / "v.jsonl")


def to_ciff(documents: list[dict[str, Any]], directory: Path) -> int:
    pytest.importorskip("pyterrier_ciff")
    return export_ciff(documents, directory / "v.ciff")


def to_lsr(documents: list[dict[str, Any]], directory: Path) -> int:
    return export_lsr_benchmark(documents, QUERIES, directory / "lsr")


@pytest.mark.parametrize("export", [to_json, to_ciff, to_lsr])
@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "there are no documents to export"),
        ([*DOCUMENTS, DOCUMENTS[0]], "docno 'b' of document 4 appears twice"),
        ([{"docno": "a"}], "document 'a' has no toks: encode it first"),
        ([{"docno": "a", "toks": {"x": float("nan")}}], "document 'a': the weight of 'x' must be"),
        ([{"toks": {}}], "document 1 has no docno"),
    ],
)
def test_documents_that_cannot_be_written(
    export: Callable[[list[dict[str, Any]], Path], int], documents: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        export(documents, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="document 'a': Anserini would split the term 'new york' at white space"):
        to_json([{"docno": "a", "toks": {"new york": 1}}], tmp_path)
    with pytest.raises(DataError, match="appears twice: give each query its own qid"):
        export_lsr_benchmark(DOCUMENTS, pd.concat([QUERIES, QUERIES]), tmp_path / "lsr")
    with pytest.raises(DataError, match="'q\\\\n1' cannot be a line of query-ids.txt"):
        export_lsr_benchmark(DOCUMENTS, QUERIES.assign(qid=["q\n1", "q2"]), tmp_path / "lsr")
    with pytest.raises(DataError, match="the name of a CIFF file ends in .ciff"):
        export_ciff(DOCUMENTS, tmp_path / "v")
    (tmp_path / "v.jsonl").write_text("")
    with pytest.raises(DataError, match="v.jsonl exists: choose another name, or remove it"):
        to_json(DOCUMENTS, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyterrier_ciff", None)
    with pytest.raises(CspladeError, match=r"The Common Index File Format needs another package.*\[ciff\]"):
        export_ciff(DOCUMENTS, tmp_path / "v.ciff")
