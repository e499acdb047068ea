"""Re-ranking with the impacts of an index, against its retriever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import Contract, ContractError, DataError, ImpactIndex, ImpactVector

CONTRACT = Contract(weights="w", base_model="lm-one")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    generator = np.random.default_rng(1)
    toks = ({f"Ġ{t}": int(generator.integers(1, 300)) for t in range(30) if generator.random() < 0.4} for _ in range(300))
    stream = ({"docno": f"d{i}", "toks": ImpactVector(vector, CONTRACT)} for i, vector in enumerate(toks))
    return ImpactIndex(tmp_path_factory.mktemp("scorer") / "index").index(stream)


def queries() -> pd.DataFrame:
    generator = np.random.default_rng(2)
    toks = [{f"Ġ{t}": float(generator.exponential()) for t in generator.choice(30, 8, replace=False)} for _ in range(20)]
    return pd.DataFrame({"qid": [f"q{i}" for i in range(20)], "query_toks": toks})


def test_scores_are_those_of_the_retriever_to_the_last_bit(index: ImpactIndex) -> None:
    results = index.retriever(algorithm="exhaustive").transform(queries())
    shuffled = results.sample(frac=0.5, random_state=1)
    scored = index.scorer().transform(shuffled.drop(columns=["score", "rank", "docid"]))
    assert scored["docno"].tolist() == shuffled["docno"].tolist()
    assert scored["score"].tolist() == shuffled["score"].tolist()
    for _, rows in scored.groupby("qid"):
        assert rows.sort_values("rank")["score"].is_monotonic_decreasing and sorted(rows["rank"]) == list(range(len(rows)))


def test_pipeline(index: ImpactIndex) -> None:
    candidates = index.retriever(num_results=50, algorithm="exhaustive")
    pipeline = candidates >> index.scorer()
    expected = candidates.transform(queries())
    pd.testing.assert_frame_equal(pipeline.transform(queries())[expected.columns], expected, check_dtype=False)


def test_documents_without_a_term_score_nothing_and_empty_queries_too(index: ImpactIndex) -> None:
    rows: list[dict[str, Any]] = [{"qid": "1", "docno": "d3", "query_toks": toks} for toks in ({"never": 1.0}, {}, None)]
    for row in rows:
        assert index.scorer()([row])[0]["score"] == 0.0
    empty = index.scorer().transform(pd.DataFrame(columns=["qid", "docno", "query_toks", "query"]))
    assert len(empty) == 0 and {"score", "rank"} <= set(empty.columns)


@pytest.mark.parametrize("docno", [3, 2.5, None, ["d3"], {}])
def test_a_docno_that_is_no_text_is_refused(index: ImpactIndex, docno: Any) -> None:
    with pytest.raises(DataError, match="is not in .* leave it out"):
        index.scorer()([{"qid": "1", "docno": docno, "query_toks": {"Ġ1": 1.0}}])


def test_what_cannot_be_scored_is_refused_by_name(index: ImpactIndex) -> None:
    def row(**changes: Any) -> dict[str, Any]:
        return {"qid": "1", "docno": "d3", "query_toks": {"Ġ1": 1.0}, **changes}

    with pytest.raises(DataError, match="'nowhere'"):
        index.scorer()([row(), row(docno="nowhere")])
    with pytest.raises(DataError, match="qid '1' has two queries"):
        index.scorer()([row(), row(query_toks={"Ġ1": 2.0})])
    with pytest.raises(DataError, match="query '1'.*'Ġ1'"):
        index.scorer()([row(query_toks={"Ġ1": -1.0})])
    with pytest.raises(ContractError, match="lm-two.*lm-one"):
        index.scorer()([row(query_toks=ImpactVector({"Ġ1": 1.0}, CONTRACT.replace(weights="v", base_model="lm-two")))])
    with pytest.raises(pt.validate.InputValidationError, match="scorer"):
        index.scorer().transform(pd.DataFrame([{"qid": "1", "docno": "d"}]))


def test_equality_repr_and_inspection(index: ImpactIndex) -> None:
    assert index.scorer() == index.scorer(verbose=True) and hash(index.scorer()) == hash(index.scorer())
    assert index.scorer() != ImpactIndex("elsewhere").scorer()
    assert repr(index.scorer()) == f"{index!r}.scorer()"
    assert pt.inspect.transformer_outputs(index.scorer(), ["qid", "docno", "query_toks"])[-2:] == ["score", "rank"]


class TestTransformerContract(pt.testing.transformer_test_class(lambda: ImpactIndex("index-that-is-not-there").scorer())):  # type: ignore[misc]
    """PyTerrier's own tests of inspection and schematics pass."""
