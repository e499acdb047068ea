"""Scores and order compared with scipy's product of the same matrices, and the behaviour of a PyTerrier retriever."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from pyterrier_csplade import Contract, ContractError, DataError, ImpactIndex, ImpactIndexError, ImpactVector

# Byte-level tokens as Llama 3 and others spell them, and some that are syntax in query languages.
TERMS = ["Ġthe", "Ċ", "ĠZ", "z", "Z", "Ã©", "ĠÐ¿", "検索", "🙂", "a b", "\n", "\0"]
TERMS += ["#combine", "a:b", '"q"', "(", "^2", "#base64(YQ==)", *(f"Ġ{i}" for i in range(40))]
CONTRACT = Contract(weights="w", base_model="lm-one")
DOCUMENTS = 800


def impacts() -> csr_matrix:
    generator = np.random.default_rng(7)
    mask = generator.random((DOCUMENTS, len(TERMS))) < 0.15
    return csr_matrix(mask * generator.integers(1, 300, mask.shape))


MATRIX = impacts()


@pytest.fixture(scope="module", params=["terrier", "exhaustive", "maxscore"])
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    rows = (MATRIX[i] for i in range(DOCUMENTS))
    vectors = (ImpactVector({TERMS[c]: int(v) for c, v in zip(row.indices, row.data)}, CONTRACT) for row in rows)
    stream = ({"docno": f"doc {i}", "toks": toks, "url": f"u{i}"} for i, toks in enumerate(vectors))
    return ImpactIndex(tmp_path_factory.mktemp("retriever") / "index").toks_indexer(meta=["url"], max_empty=1).index(stream)


def frame(*queries: Any) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(queries))], "query_toks": pd.Series(list(queries), dtype=object)})


def brute_force(query: dict[str, float], k: int) -> list[tuple[int, float]]:
    """The k documents with the largest dot products above 0; of equal ones, the first indexed."""
    weights = np.array([float(query.get(term, 0)) for term in TERMS])
    scores = MATRIX.astype(np.float64) @ weights
    order = np.lexsort((np.arange(DOCUMENTS), -scores))
    return [(int(d), float(scores[d])) for d in order if scores[d] > 0][:k]


def assert_exact(result: pd.DataFrame, query: dict[str, float], k: int) -> None:
    expected = brute_force(query, k)
    assert len(result) == len(expected)
    assert result["score"].to_numpy() == pytest.approx([score for _, score in expected], rel=1e-12)
    assert result["rank"].tolist() == list(range(len(expected)))
    # Sums that differ only in the last digits may have been added in another order by scipy.
    for docid, (wanted, score) in zip(result["docid"], expected):
        assert docid == wanted or (MATRIX[docid] @ [query.get(t, 0) for t in TERMS])[0] == pytest.approx(score, rel=1e-14)


def random_query(generator: np.random.Generator, size: int, scale: float) -> dict[str, float]:
    columns = generator.choice(len(TERMS), size, replace=False)
    return {TERMS[c]: float(np.float32(scale * w)) for c, w in zip(columns, generator.exponential(size=size))}


@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize("scale", [1e-7, 0.01, 1, 250, 1e30])
def test_scores_and_order_are_those_of_scipy(index: ImpactIndex, k: int, scale: float, algorithm: str) -> None:
    generator = np.random.default_rng(3)
    queries = [random_query(generator, size, scale) for size in (1, 2, 5, 20, 50)]
    result = index.retriever(algorithm=algorithm, num_results=k).transform(frame(*queries))
    assert result["qid"].drop_duplicates().tolist() == [f"q{i}" for i in range(5)]
    for i, query in enumerate(queries):
        assert_exact(result[result["qid"] == f"q{i}"], query, k)


def test_unknown_terms_change_nothing(index: ImpactIndex, algorithm: str) -> None:
    query = {"Ġthe": 0.25, "z": 1.5}
    unknown = {"never": 1e30, "x" * 200: 2.0, "": 1.0, "\ud800": 1.0, "é" * 31: 3.0}
    plain, more = (
        index.retriever(algorithm=algorithm).transform(frame(q))[["docno", "rank", "score"]]
        for q in (query, {**unknown, **query})
    )
    pd.testing.assert_frame_equal(plain, more)
    assert_exact(more.assign(docid=more["docno"].str[4:].astype(int)), query, 1000)


@pytest.mark.parametrize("small", [1e-7, 1e-30, 5e-324])
@pytest.mark.parametrize("large", [1.0, 1e30, 2.0**512])
def test_weights_far_apart(index: ImpactIndex, small: float, large: float, algorithm: str) -> None:
    result = index.retriever(algorithm=algorithm).transform(frame({"Ġthe": small, "z": large}))
    assert np.isfinite(result["score"]).all() and (result["score"] >= 0).all()
    columns = [TERMS.index("z"), TERMS.index("Ġthe")]
    exact = {d: tuple(MATRIX[d, c] for c in columns) for d in range(DOCUMENTS) if MATRIX[d, columns].nnz}
    # Documents with "z" come first, by its impact; "Ġthe" decides among the others.
    if large / small > 1e8:
        by_z = [exact[d][0] for d in result["docid"]]
        assert by_z == sorted(by_z, reverse=True)
    if large / small < 1e280:
        rest = [d for d in result["docid"] if exact[d][0] == 0]
        assert [exact[d][1] for d in rest] == sorted((exact[d][1] for d in rest), reverse=True)
        scores = result.set_index("docid").loc[rest, "score"].to_numpy()
        assert scores == pytest.approx([small * exact[d][1] for d in rest], rel=1e-6)
        assert len(result) == len(exact)


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.dictionaries(st.sampled_from(TERMS), st.floats(2**-20, 2**20, width=32), min_size=1), st.integers(1, 900))
def test_any_query_is_exact(index: ImpactIndex, algorithm: str, query: dict[str, float], k: int) -> None:
    assert_exact(index.retriever(algorithm=algorithm, num_results=k).transform(frame(query)), query, k)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("k", [1, 3, 50, 150])
def test_ties_come_in_the_order_of_indexing(tied: ImpactIndex, k: int, threads: int, algorithm: str) -> None:
    queries = frame({"a": 0.1, "b": 0.2, "c": 0.3}, {"c": 0.7}, {"b": 0.3, "a": 0.1, "d": 0.4})
    result = tied.retriever(algorithm=algorithm, num_results=k, threads=threads).transform(queries)
    assert result["qid"].tolist() == [qid for qid in queries["qid"] for _ in range(k)]
    for qid, rows in result.groupby("qid"):
        assert rows["docid"].tolist() == list(range(k)), qid


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    stream = ({"docno": f"d{i}", "toks": {"d": 2, "c": 4, "b": 6, "a": 3}} for i in range(200))
    return ImpactIndex(tmp_path_factory.mktemp("tied") / "index").index(stream)


@pytest.mark.filterwarnings("error")
def test_queries_without_a_known_term_have_no_rows_and_harm_no_other(index: ImpactIndex, algorithm: str) -> None:
    nothing: list[Any] = [{}, None, math.nan, pd.NA, {"z": 0.0, "Z": 0}, {"never": 1.0}]
    queries = frame(*nothing, {"z": 1.0, "Z": 0.0}, {"Ġthe": 2})
    result = index.retriever(algorithm=algorithm).transform(queries)
    assert result["qid"].drop_duplicates().tolist() == ["q6", "q7"]
    assert_exact(result[result["qid"] == "q6"], {"z": 1.0}, 1000)
    assert not result["score"].isna().any()
    empty = index.retriever(algorithm=algorithm).transform(frame(*nothing))
    assert len(empty) == 0
    assert list(empty.columns) == list(result.columns)
    assert [str(empty[c].dtype) for c in ("docid", "rank", "score")] == ["int64", "int64", "float64"]


@pytest.mark.parametrize("weight", [-1.0, -1e-9, math.nan, math.inf, -math.inf, "1", [1.0], 1e300, 10**400])
def test_weight_that_is_none_is_refused_with_its_query(index: ImpactIndex, weight: Any, algorithm: str) -> None:
    with pytest.raises(DataError, match="query 'q1'.*'Ġthe'"):
        index.retriever(algorithm=algorithm).transform(frame({"z": 1.0}, {"Ġthe": weight}))


@pytest.mark.parametrize("toks", [["z"], "z", 3.0, ("z", 1), np.array([1.0, 2.0]), {1: 2.0}])
def test_query_that_is_no_dict_of_terms_is_refused(index: ImpactIndex, toks: Any, algorithm: str) -> None:
    with pytest.raises(DataError, match="query 'q1'"):
        index.retriever(algorithm=algorithm).transform(frame({"z": 1.0}, toks))


def test_qid_that_stands_twice_is_refused(index: ImpactIndex, algorithm: str) -> None:
    with pytest.raises(DataError, match="qid '7' appears twice"):
        index.retriever(algorithm=algorithm).transform(frame({"z": 1.0}, {"Z": 1.0}).assign(qid=[7, "7"]))


def test_terms_are_data_and_never_syntax(index: ImpactIndex, algorithm: str) -> None:
    for term in ["#combine:0=9(z)", "z) OR (Z", "#base64(eg==)", "z^9", "z Z"]:
        assert len(index.retriever(algorithm=algorithm).transform(frame({term: 1.0}))) == 0


def test_numpy_weights_and_integers_are_numbers(index: ImpactIndex, algorithm: str) -> None:
    for weight in (2, np.float32(2), np.int64(2), True + 1):
        assert_exact(index.retriever(algorithm=algorithm).transform(frame({"z": weight})), {"z": 2.0}, 1000)


def test_frame_is_not_changed_and_its_columns_are_kept(index: ImpactIndex, algorithm: str) -> None:
    queries = frame({"z": 1.0}, {"Z": 1.0}).assign(query="raw: text?", topic=[4, 5], score=-1.0)[::-1]
    before = queries.copy()
    result = index.retriever(algorithm=algorithm, num_results=2).transform(queries)
    pd.testing.assert_frame_equal(queries, before)
    assert list(result.columns) == ["qid", "query_toks", "query", "topic", "docid", "docno", "rank", "score"]
    assert result["qid"].tolist() == ["q1", "q1", "q0", "q0"]
    assert result["topic"].tolist() == [5, 5, 4, 4]
    assert result["query"].tolist() == ["raw: text?"] * 4
    assert result["query_toks"].tolist() == [{"Z": 1.0}] * 2 + [{"z": 1.0}] * 2


def test_integer_qids_become_text(index: ImpactIndex, algorithm: str) -> None:
    assert index.retriever(algorithm=algorithm, num_results=1).transform(frame({"z": 1.0}).assign(qid=7))["qid"].tolist() == [
        "7"
    ]


def test_frames_lists_and_iterables_agree(index: ImpactIndex, algorithm: str) -> None:
    retriever = index.retriever(algorithm=algorithm, num_results=3)
    queries = frame({"z": 1.0}, {"Z": 1.0})
    records = retriever.transform(queries).to_dict("records")
    assert retriever(queries.to_dict("records")) == records
    assert list(retriever.transform_iter(iter(queries.to_dict("records")))) == records


def test_included_fields(index: ImpactIndex, algorithm: str) -> None:
    result = index.retriever(algorithm=algorithm, num_results=3, include_fields=["url"]).transform(frame({"z": 1.0}))
    assert result["url"].tolist() == [f"u{docid}" for docid in result["docid"]]
    with pytest.raises(ImpactIndexError, match="nowhere"):
        index.retriever(algorithm=algorithm, include_fields=["nowhere"]).transform(frame({"z": 1.0}))


def test_scores_of_terrier_on_request(index: ImpactIndex) -> None:
    query = {"z": 4.0, "Z": 1.0, "never": 100.0}
    exact, raw = (index.retriever(exact_scores=e).transform(frame(query)) for e in (True, False))
    assert raw["docno"].tolist() == exact["docno"].tolist()
    assert raw["score"].to_numpy() == pytest.approx(exact["score"].to_numpy() / 4.0, rel=1e-6)


def test_query_of_another_encoder_is_refused_and_both_are_named(index: ImpactIndex, algorithm: str) -> None:
    other = ImpactVector({"z": 1.0}, CONTRACT.replace(weights="v", base_model="lm-two"))
    with pytest.raises(ContractError, match="query 'q1'.*lm-two.*lm-one"):
        index.retriever(algorithm=algorithm).transform(frame(ImpactVector({"z": 1.0}, CONTRACT), other))


def test_query_of_the_same_or_an_unknown_encoder_is_answered(index: ImpactIndex, algorithm: str) -> None:
    same = ImpactVector({"z": 1.0}, CONTRACT.replace(query_length=8))
    assert len(index.retriever(algorithm=algorithm, num_results=1).transform(frame(same, {"z": 1.0}))) == 2


def test_cutoff_is_pushed_into_the_search_and_never_relaxed(index: ImpactIndex, algorithm: str) -> None:
    retriever = index.retriever(algorithm=algorithm, num_results=20)
    fused = (retriever % 5).compile()
    assert fused == index.retriever(algorithm=algorithm, num_results=5)
    pd.testing.assert_frame_equal(fused.transform(frame({"z": 1.0})), (retriever % 5).transform(frame({"z": 1.0})))
    assert (retriever % 50).compile() == retriever
    with pytest.raises(ValueError, match="num_results"):
        index.retriever(algorithm=algorithm, num_results=0)


def test_equality_hash_and_repr(index: ImpactIndex) -> None:
    one, same = index.retriever(num_results=5), ImpactIndex(str(index.path)).retriever(num_results=5, verbose=True)
    assert one == same and hash(one) == hash(same)
    others = [index.retriever(), index.retriever(num_results=5, exact_scores=False), index.retriever(num_results=5, threads=2)]
    assert one not in others and one != "x"
    assert repr(one) == f"ImpactIndex({str(index.path)!r}).retriever(num_results=5)"
    assert repr(index.retriever()).endswith(".retriever()")


def test_progress_ends_at_the_last_query(index: ImpactIndex, algorithm: str, capsys: pytest.CaptureFixture[str]) -> None:
    index.retriever(algorithm=algorithm, verbose=True).transform(frame({"z": 1.0}, {"z": 2.0}))
    assert "2/2" in capsys.readouterr().err


def test_inspection(index: ImpactIndex, algorithm: str) -> None:
    retriever = index.retriever(algorithm=algorithm, include_fields=["url"])
    assert pt.inspect.transformer_inputs(retriever) == [["qid", "query_toks"]]
    outputs = ["qid", "query", "query_toks", "docid", "docno", "url", "rank", "score"]
    assert pt.inspect.transformer_outputs(retriever, ["qid", "query", "query_toks"]) == outputs
    assert retriever.transform(frame()).columns.tolist() == [c for c in outputs if c != "query"]


@pytest.mark.parametrize("columns", [["qid"], ["query_toks"], ["qid", "query"], ["qid", "query_toks", "docno"]])
def test_wrong_frame_is_refused_by_name(index: ImpactIndex, columns: list[str], algorithm: str) -> None:
    with pytest.raises(pt.validate.InputValidationError, match="retriever"):
        index.retriever(algorithm=algorithm).transform(pd.DataFrame(columns=columns))
    with pytest.raises(pt.validate.InputValidationError, match="retriever"):
        index.retriever(algorithm=algorithm).transform_outputs(columns)


def test_term_frequency_is_the_only_model_of_terrier(index: ImpactIndex) -> None:
    plain = pt.terrier.TerrierIndex(index.path).tf(num_results=5).transform(frame({"z": 4.0, "Z": 1.0}))
    for retriever in (index.tf(num_results=5), index.retriever("Tf", num_results=5)):
        raw = retriever.transform(frame({"z": 4.0, "Z": 1.0}))
        assert raw["docno"].tolist() == plain["docno"].tolist()
        assert raw["score"].to_numpy() == pytest.approx(plain["score"].to_numpy(), rel=1e-6)
    for name in ("bm25", "dph", "pl2", "dirichlet_lm", "hiemstra_lm", "tf_idf", "rm3", "bo1", "kl", "sdm"):
        with pytest.raises(ImpactIndexError, match=rf"but {name}\(\) needs counts of words: .*query_encoder"):
            getattr(index, name)()
    for model in ("BM25", pt.terrier.TerrierModel.dph):
        with pytest.raises(ImpactIndexError, match=r"but retriever\(.*needs counts of words"):
            index.retriever(model)


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["qid", "query"], "the queries have no vectors; put csplade.query_encoder() before this transformer"),
        (["qid", "query_toks", "docno"], "use scorer() in place of retriever()"),
        (["qid", "query", "docno"], "use scorer() in place of retriever()"),
    ],
)
def test_a_frame_of_another_kind_is_refused_with_the_way_out(
    index: ImpactIndex, columns: list[str], hint: str, algorithm: str
) -> None:
    with pytest.raises(pt.validate.InputValidationError, match=re.escape(hint)):
        index.retriever(algorithm=algorithm).transform(pd.DataFrame([dict.fromkeys(columns, "x")]))


def test_the_scorer_refuses_queries_with_the_way_out(index: ImpactIndex) -> None:
    with pytest.raises(pt.validate.InputValidationError, match=r"use retriever\(\) in place of scorer\(\)"):
        index.scorer()(frame({"z": 1.0}))
    with pytest.raises(pt.validate.InputValidationError, match=r"put csplade.query_encoder\(\) before this transformer"):
        index.scorer()(pd.DataFrame([{"qid": "1", "docno": "doc 1", "query": "text"}]))


def test_any_number_of_results_may_be_asked_for(index: ImpactIndex, algorithm: str) -> None:
    result = index.retriever(algorithm=algorithm, num_results=10**12).transform(frame({"z": 1.0}))
    assert_exact(result, {"z": 1.0}, DOCUMENTS)


def test_absent_terms_of_a_table_are_absent(index: ImpactIndex, algorithm: str) -> None:
    """Parquet gives every vector of a column all terms, those that it did not have with None."""
    queries = frame({"z": 1.0}, {"Z": 2.0, "Ġthe": 0.5})
    stored = frame({"z": 1.0, "Z": None, "Ġthe": None}, {"z": None, "Z": 2.0, "Ġthe": 0.5})
    retriever = index.retriever(algorithm=algorithm, num_results=5)
    columns = ["qid", "docno", "rank", "score"]
    expected = retriever(queries)
    pd.testing.assert_frame_equal(retriever(stored)[columns], expected[columns])
    given = expected.drop(columns="query_toks").merge(stored, on="qid")
    assert index.scorer()(given)["score"].tolist() == pytest.approx(expected["score"].tolist())
    assert len(retriever(frame({"z": None}))) == 0


@pytest.mark.parametrize("toks", [dict, ImpactVector])
def test_passages_are_put_together_after_the_search(index: ImpactIndex, algorithm: str, toks: Any) -> None:
    found = index.retriever(algorithm=algorithm, num_results=20).transform(frame(toks({"z": 1.0}), toks({"Z": 2.0})))
    passages = found.assign(docno=[f"d{docid % 3}%p{docid}" for docid in found["docid"]])
    for together in (pt.text.mean_passage(), pt.text.kmaxavg_passage(2), pt.text.max_passage()):
        documents = together(passages)
        assert len(documents) == 6 and set(documents["qid"]) == {"q0", "q1"}
    mean = pt.text.mean_passage()(passages).set_index(["qid", "docno"])["score"].to_dict()
    assert mean == pytest.approx(
        passages.assign(docno=passages["docno"].str[:2]).groupby(["qid", "docno"])["score"].mean().to_dict()
    )


def test_names_of_experiments_are_short_and_file_names(index: ImpactIndex, algorithm: str, tmp_path: Path) -> None:
    variants: list[dict[str, Any]] = [{}, {"num_results": 5}, {"include_fields": ["url"]}]
    retrievers = [index.retriever(algorithm=algorithm, **variant) for variant in variants]
    names = [str(retriever) for retriever in [*retrievers, index.scorer(), index.text_loader(), index]]
    assert len(set(names)) == 6 and all(pt.io.ok_filename(name) and len(name) < 100 for name in names)
    assert names[0] == {"terrier": "ImpactRetriever(index)"}.get(
        algorithm, f"PostingsRetriever(index, algorithm='{algorithm}')"
    )
    qrels = pd.DataFrame({"qid": ["q0"], "docno": ["doc 1"], "label": 1})
    queries = frame({"z": 1.0}).assign(query="text")
    pt.Experiment(retrievers, queries, qrels, ["map"], save_dir=str(tmp_path))
    assert {f"{name}.res.gz" for name in names[:3]} <= {path.name for path in tmp_path.iterdir()}


def test_experiment_without_a_warning(index: ImpactIndex, tmp_path: Path, algorithm: str) -> None:
    queries = frame({"z": 1.0}, {"never": 1.0}).assign(query="text")
    best = index.retriever(algorithm=algorithm, num_results=1).transform(queries)["docno"][0]
    qrels = pd.DataFrame({"qid": ["q0", "q1"], "docno": [best, best], "label": 1})
    systems = [
        index.retriever(algorithm=algorithm),
        index.retriever(algorithm=algorithm, num_results=10) + index.retriever(algorithm=algorithm),
    ]
    table = pt.Experiment(systems, queries, qrels, ["recip_rank"], names=["a", "b"], validate="error")
    assert table["recip_rank"].tolist() == [0.5, 0.5]


def test_new_process_searches_what_another_has_built(index: ImpactIndex) -> None:
    code = """
import sys, pandas as pd
from pyterrier_csplade import ImpactIndex
result = ImpactIndex(sys.argv[1]).retriever(num_results=3).transform(pd.DataFrame([{"qid": "q", "query_toks": {"z": 0.5}}]))
print(*result["docno"].str[4:], *result["score"])
"""
    process = subprocess.run([sys.executable, "-c", code, str(index.path)], capture_output=True, text=True, check=True)
    expected = brute_force({"z": 0.5}, 3)
    assert process.stdout.split() == [*(str(docid) for docid, _ in expected), *(str(score) for _, score in expected)]
