"""Recall against exact search, compared with values computed by hand, and the tradeoff plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR

from pyterrier_csplade import DataError, exact_recall, plot_tradeoff


def run(**queries: dict[str, float]) -> pd.DataFrame:
    rows = [(qid, docno, score) for qid, scores in queries.items() for docno, score in scores.items()]
    frame = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    return pt.model.add_ranks(frame)


EXACT = run(q1={"a": 9.0, "b": 5.0, "c": 5.0 + 1e-12, "d": 1.0}, q2={"a": 2.0})
TOPICS = pd.DataFrame({"qid": ["q1", "q2", "q3"], "query": ["x", "y", "z"]})
QRELS = pd.DataFrame({"qid": ["q1", "q2", "q3"], "docno": ["a", "a", "a"], "label": [1, 1, 1]})


def recall(found: pd.DataFrame, k: int) -> dict[str, float]:
    system = pt.Transformer.from_df(found)
    rows = pt.Experiment([system], TOPICS, QRELS, [exact_recall(EXACT, k)], perquery=True)
    return dict(zip(rows["qid"], rows["value"]))


def test_recall_by_hand() -> None:
    found = run(q1={"b": 70.0, "d": 60.0, "a": 50.0})
    assert recall(found, 1) == {"q1": 0, "q2": 0, "q3": 1}
    assert recall(found, 2) == {"q1": 0.5, "q2": 0, "q3": 1}
    assert recall(found, 3) == {"q1": pytest.approx(2 / 3), "q2": 0, "q3": 1}
    assert recall(found, 4) == {"q1": 0.75, "q2": 0, "q3": 1}


def test_ties_with_the_last_are_as_good_as_it() -> None:
    for other in ("b", "c"):
        assert recall(run(q1={"a": 3.0, other: 2.0}, q2={"a": 1.0}), 2) == {"q1": 1, "q2": 1, "q3": 1}
    # A top k holds at most k documents.
    assert recall(run(q1={"b": 3.0, "c": 2.0}), 2)["q1"] == 1


def test_recall_is_a_column_of_an_experiment() -> None:
    system = pt.Transformer.from_df(EXACT)
    table = pt.Experiment({"exact": system}, TOPICS, QRELS, [RR, exact_recall(EXACT, 10), "mrt"])
    assert table["exact_recall@10"].tolist() == [1.0]
    with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
        exact_recall(EXACT, 0)


RESULTS = pd.DataFrame(
    {
        "name": ["terrier", "bmp, 0.8", "bmp, 1"],
        "nDCG@10": [0.5, 0.4, 0.5],
        "nDCG@10 +": [0, 1, 2],
        "nDCG@10 p-value": [1, 0.2, 0.3],
        "exact_recall@10": [1, 0.9, 1],
        "mrt": [20.0, 1.0, 2.0],
    }
)


def lines(axis: Any) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): [(float(x), float(y)) for x, y in line.get_xydata()] for line in axis.lines}


def test_every_measure_of_an_experiment_has_a_panel(tmp_path: Path) -> None:
    figure = plot_tradeoff(RESULTS, tmp_path / "tradeoff.png", title="openstax")
    first, second = figure.axes
    assert (first.get_ylabel(), second.get_ylabel()) == ("nDCG@10", "exact_recall@10")
    assert first.get_xscale() == "log" and "ms" in first.get_xlabel()
    assert lines(second) == {"terrier": [(20, 1)], "bmp, 0.8": [(1, 0.9)], "bmp, 1": [(2, 1)]}
    assert (tmp_path / "tradeoff.png").read_bytes()[:4] == b"\x89PNG"


def test_systems_with_several_settings_are_lines() -> None:
    results = RESULTS.assign(system=["terrier", "bmp", "bmp"], label=["", "0.8", "1"], MB=[5, 9, 7])
    (axis,) = plot_tradeoff(results, measures=["nDCG@10"], cost="MB").axes
    assert lines(axis) == {"terrier": [(5, 0.5)], "bmp": [(7, 0.5), (9, 0.4)]}
    assert axis.get_xscale() == "linear" and [text.get_text() for text in axis.texts] == ["", "1", "0.8"]


def test_texts_that_are_no_formulas_are_shown_as_they_are(tmp_path: Path) -> None:
    """A formula of matplotlib that cannot be parsed was an error of its parser."""
    names = ["$x^$", "$\\alpha$", "US$ 5"]
    results = RESULTS.assign(name=names, label=["$x^$", 7, None], **{"$y^$": 1.0})
    figure = plot_tradeoff(results, tmp_path / "a.png", title="$_$", measures=["$y^$"])
    assert (tmp_path / "a.png").stat().st_size > 1000
    (axis,) = figure.axes
    legend = axis.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == names
    assert [text.get_parse_math() for text in legend.get_texts()] == [False, True, False]


@pytest.mark.parametrize(
    "results, message",
    [
        (RESULTS.drop(columns="mrt"), "'mrt'"),
        (RESULTS[["name", "mrt"]], "a measure"),
        (RESULTS.drop(columns="name"), "'name'"),
        (RESULTS.head(0), "no results"),
        (RESULTS.assign(mrt=0.0), "mrt must be above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(results: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plot_tradeoff(results)
