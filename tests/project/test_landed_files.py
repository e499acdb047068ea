"""Files written by version 0.1.0, before the package was rearranged, still open and give the same results.

``tests/fixtures/landed`` was written by commit 1e1ea8e: a checkpoint, and from it an index with all its arrays and a
collection.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyterrier_csplade import CSPLADE, EncodedCollection, ImpactIndex
from support.paths import TESTS
from support.texts import DOCUMENTS

EXPECTED = json.loads((TESTS / "fixtures" / "landed" / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because missing files of an index are written into its directory."""
    path: Path = shutil.copytree(TESTS / "fixtures" / "landed", tmp_path_factory.mktemp("landed") / "files")
    return path


def test_a_checkpoint_opens_and_encodes_alike(landed: Path) -> None:
    csplade = CSPLADE(landed / "checkpoint")
    assert csplade.contract.fingerprint == EXPECTED["contract"] and csplade.contract.variant == "echo"
    queries = ["inverted index", "dogs and cats", "causal language models"]
    for row, expected in zip(csplade.encode_queries(queries, top_k=20), EXPECTED["queries"]):
        assert csplade.decode(row) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive", "maxscore", "bmp", "guided"])
def test_an_index_opens_and_is_searched_alike(landed: Path, algorithm: str) -> None:
    if algorithm not in ("terrier", "exhaustive"):
        pytest.importorskip("numba")
    before = sorted(path.name for path in (landed / "index").iterdir())
    index = ImpactIndex(landed / "index")
    index.verify()
    queries = pd.DataFrame({"qid": ["q1", "q2", "q3"], "query_toks": EXPECTED["queries"]})
    found = index.retriever(algorithm=algorithm, num_results=5)(queries)
    expected = pd.DataFrame(EXPECTED[algorithm], columns=["qid", "docno", "score"])
    pd.testing.assert_frame_equal(found[["qid", "docno", "score"]], expected, check_dtype=False, rtol=1e-9)
    assert sorted(path.name for path in (landed / "index").iterdir()) == before, "nothing was built again"


def test_a_collection_opens_and_is_indexed(landed: Path, tmp_path: Path) -> None:
    collection = EncodedCollection(landed / "collection")
    blocks: list[Any] = [matrix for _, matrix in collection.blocks()]
    found = {"documents": len(collection), "nnz": sum(b.nnz for b in blocks), "sum": sum(int(b.sum()) for b in blocks)}
    assert found == EXPECTED["collection"]
    index = ImpactIndex(tmp_path / "index").index_vectors(collection)
    assert len(index) == len(DOCUMENTS) and index.contract == collection.contract
