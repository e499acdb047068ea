"""Warnings point to the line of the user's code, whatever calls lie between it and this package."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import ImpactIndex, MatrixVectors, OpenSearchIndex
from pyterrier_csplade.data import read_corpus
from pyterrier_csplade.training import mine_negatives, train
from support.fake_opensearch import FakeCluster
from support.paths import ROOT
from support.training_runs import contrastive_config, make_base

ROWS = [{"docno": "d", "toks": {"a": 0.4, "b": 1.6}}, {"docno": "e", "toks": {}}]
RESULTS = pd.DataFrame({"qid": ["1", "1"], "docno": ["d", "e"], "score": [2.0, 1.0], "text": ["one", "two"]})


def collection(folder: Path) -> Path:
    """A directory of which one file is read."""
    (folder / "docs.jsonl").write_text('{"docno": "d", "text": "dogs"}\n')
    (folder / "docs2.jsonl").write_text("")
    return folder


def mine(folder: Path, qrels: pd.DataFrame) -> Path:
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["dogs", "cats"]})
    return mine_negatives(RESULTS, topics, qrels, output=folder / "rows.jsonl", verbose=False)


QRELS = pd.DataFrame({"qid": ["1", "3"], "docno": ["d", "d"], "label": [1, 1]})
USES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "no impact": ("1 of 2 documents", lambda folder: ImpactIndex(folder / "index").index(ROWS)),
    "rounded": ("weights were rounded", lambda folder: ImpactIndex(folder / "index").index(ROWS)),
    "OpenSearch": ("rounding to integer impacts", lambda folder: OpenSearchIndex(FakeCluster().client(), "docs").index(ROWS)),
    "files": ("is read, but not the other files", lambda folder: next(read_corpus(str(collection(folder)), ("text",)))),
    "mining": ("have no relevant document", lambda folder: mine(folder, QRELS)),
    "training": ("pre-flight: ", lambda folder: train(contrastive_config(make_base(folder), folder / "run", steps=1))),
}


@pytest.mark.parametrize("name", USES)
def test_a_warning_names_the_line_of_the_users_code(tmp_path: Path, name: str) -> None:
    message, use = USES[name]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        use(tmp_path)
    places = {warning.filename for warning in found if message in str(warning.message)}
    assert places == {__file__}


def test_no_warning_counts_frames_by_hand() -> None:
    files = [path for path in (ROOT / "pyterrier_csplade").rglob("*.py") if "stacklevel" in path.read_text(encoding="utf-8")]
    assert [path.name for path in files] == ["_warnings.py"]


def test_vectors_of_a_matrix_warn_at_the_caller(tmp_path: Path) -> None:
    vectors = MatrixVectors(["d", "e"], csr_matrix([[1, 2], [0, 0]]), ["a", "b"])
    with pytest.warns(UserWarning, match="1 of 2 documents") as found:
        ImpactIndex(tmp_path / "index").index_vectors(vectors)
    assert {warning.filename for warning in found} == {__file__}
