"""Runs in TREC's format, and files that are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import DataError
from pyterrier_csplade.data import read_run

LINE = "1 Q0 d1 0 8.5 tag\n"


def test_a_run_that_pyterrier_wrote(tmp_path: Path) -> None:
    frame = pd.DataFrame({"qid": ["2", "1"], "docno": ["x", "y"], "score": [1.25, -3e-7], "rank": [0, 0]})
    for name in ("run", "run.gz"):
        pt.io.write_results(frame, str(tmp_path / name))
        assert read_run(tmp_path / name).to_dict("list") == frame[["qid", "docno", "score"]].to_dict("list")


def test_names_that_look_like_missing_values_or_quotes_are_text(tmp_path: Path) -> None:
    """PyTerrier reads them as missing values."""
    (tmp_path / "run").write_text('NA Q0 null 0 2 t\n1 Q0 "d 0 1 t\n')
    assert read_run(tmp_path / "run").values.tolist() == [["NA", "null", 2.0], ["1", '"d', 1.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINE + "1 Q0 d2\n", "run, line 2: expected qid Q0 docno rank score tag, with a finite score, found '1 Q0 d2'"),
        (LINE + "\n", "run, line 2: expected"),
        (LINE + "1 Q0 d 2 0 8 t\n", "run, line 2: expected"),
        (LINE + "1 Q0 d2 0 abc t\n", "run, line 2: expected"),
        (LINE + "1 Q0 d2 0 nan t\n", "run, line 2: expected"),
        (LINE + "1 Q0 d2 0 inf t\n", "run, line 2: expected"),
        ('{"docno": "d1", "text": "x"}\n', "run, line 1: expected"),
        ("", "run contains no results"),
        (LINE + "2 Q0 d1 0 1 t\n" + LINE, "run, line 3: the document 'd1' appears twice for the query '1'"),
    ],
)
def test_what_is_no_run_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run").write_text(content)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path / "run")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="run, line 1: not valid UTF-8"):
        read_run(tmp_path / "run")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(LINE.encode() * 999)[:-9])
    with pytest.raises(DataError, match="torn.gz, after line .*: cannot be read"):
        read_run(tmp_path / "torn.gz")
