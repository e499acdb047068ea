"""Results of a search in TREC's format."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from pyterrier_csplade._errors import DataError

from .jsonl import read_lines


def read_run(path: str | Path) -> pd.DataFrame:
    """Read a run.

    Args:
        path: A file of lines ``qid Q0 docno rank score tag``, gzip-compressed if its name ends in ``.gz``.

    Returns:
        A frame of ``qid``, ``docno`` and ``score``, in the order of the file. Names such as NA are text like any other.

    Raises:
        DataError: A line has another form, a score is not finite, a document appears twice for a query, or there are no
            results; the message names file and line.
    """
    qids: list[str] = []
    docnos: list[str] = []
    scores: list[float] = []
    for number, line in read_lines(path):
        fields = line.split()
        score = _score(fields[4]) if len(fields) == 6 else None
        if score is None:
            raise DataError(
                f"{path}, line {number}: expected qid Q0 docno rank score tag, with a finite score, found "
                f"{line.rstrip()[:60]!r}"
            )
        qids.append(fields[0])
        docnos.append(fields[2])
        scores.append(score)
    run = pd.DataFrame({"qid": qids, "docno": docnos, "score": scores})
    if run.empty:
        raise DataError(f"{path} contains no results")
    if (twice := run.duplicated(["qid", "docno"]).to_numpy()).any():
        qid, docno = run.loc[twice, ["qid", "docno"]].iloc[0]
        raise DataError(f"{path}, line {int(twice.argmax()) + 1}: the document {docno!r} appears twice for the query {qid!r}")
    return run


def _score(text: str) -> float | None:
    try:
        score = float(text)
    except ValueError:
        return None
    return score if math.isfinite(score) else None
