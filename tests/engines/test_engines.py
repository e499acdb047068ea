"""Each adapter against brute force on documents with a language model's byte-level tokens, and its limits.

An engine that is not installed is skipped: pip install "pyterrier-csplade[pisa,seismic]" runs all but
Anserini, which changes PyTerrier's Java and so gets an environment of its own: pip install "pyterrier-csplade[anserini]".
"""

from __future__ import annotations

import base64
import importlib.util
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import Contract, ContractError, DataError, ImpactIndexError, ImpactVector, MatrixVectors
from pyterrier_csplade.engines import AnseriniEngine, Engine, PisaEngine, SeismicEngine
from support.terms import spell

DOCUMENTS, TERMS, QUERIES = 2000, 30_000, 60
CONTRACT = Contract(weights="w", base_model="lm-one")
# Terms that engines fold, split, cut or interpret as syntax.
AWKWARD = ["THE", "The", "the", "Ġthe", "ĠThe", "a b", "\n", "a\nb", "\r", "\t", "\0", '"', "(", "^2", "a:b", "😀", "é" * 30]


def available(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


# Retriever options, and for approximate engines the share of the exact top 10 that must be found.
EXACT: list[Any] = [
    pytest.param(PisaEngine, {}, marks=available("pyterrier_pisa")),
    pytest.param(PisaEngine, {"query_algorithm": "block_max_wand"}, marks=available("pyterrier_pisa")),
    pytest.param(AnseriniEngine, {}, marks=available("pyterrier_anserini")),
]
APPROXIMATE: list[Any] = [
    pytest.param(SeismicEngine, {"query_cut": 50, "heap_factor": 1.0}, 0.95, marks=available("seismic")),
]


@pytest.fixture(scope="module")
def terms() -> list[str]:
    """Awkward terms first, among the frequent ones; then tokens of Llama 3."""
    model = files("llama_models.llama3") / "tokenizer.model"
    tokens = [spell(base64.b64decode(line.split()[0])) for line in model.read_bytes().splitlines()]
    distinct = dict.fromkeys([*AWKWARD, *(token for token in tokens if len(token.encode()) <= 60)])
    return list(distinct)[:TERMS]


@pytest.fixture(scope="module")
def matrix() -> csr_matrix:
    generator = np.random.default_rng(5)
    rows = np.repeat(np.arange(DOCUMENTS), 120)
    columns = (TERMS ** generator.random(len(rows))).astype(int) - 1  # few terms are frequent
    counts = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(DOCUMENTS, TERMS))
    counts.data = np.minimum(255, generator.gamma(2.0, 30.0, counts.nnz).astype(int) + 1)
    return csr_matrix(counts.astype(np.int32))


@pytest.fixture(scope="module")
def queries(terms: list[str]) -> pd.DataFrame:
    generator = np.random.default_rng(6)
    vectors = []
    for _ in range(QUERIES):
        columns = np.unique((TERMS ** generator.random(25)).astype(int) - 1)
        weights = np.round(generator.gamma(2.0, 0.5, len(columns)), 3) + 0.001
        vectors.append(ImpactVector(zip((terms[c] for c in columns), weights.tolist()), CONTRACT))
    # One query for each awkward term alone.
    vectors += [ImpactVector({term: 1.0}, CONTRACT) for term in AWKWARD]
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(vectors))], "query_toks": vectors})


_built: dict[type[Engine], Engine] = {}


@pytest.fixture(scope="module")
def build(terms: list[str], matrix: csr_matrix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    def cached(engine: type[Engine]) -> Engine:
        if engine not in _built:
            docnos = [f"doc {i}: ünï\ncode" if i % 7 == 0 else f"D{i}" for i in range(DOCUMENTS)]
            index = engine(tmp_path_factory.mktemp("engine") / "index")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _built[engine] = index.index_vectors(MatrixVectors(docnos, matrix, terms, CONTRACT))
        return _built[engine]

    yield cached
    _built.clear()


def exact_scores(matrix: csr_matrix, terms: list[str], query: dict[str, float]) -> np.ndarray:
    columns = {term: column for column, term in enumerate(terms)}
    weights = np.zeros(matrix.shape[1])
    for term, weight in query.items():
        weights[columns[term]] = weight
    return matrix @ weights  # type: ignore[no-any-return]


@pytest.mark.parametrize("engine, options", EXACT)
def test_exact_engines_return_the_top_10_and_the_dot_product(
    engine: type[Engine], options: dict[str, Any], build: Any, queries: pd.DataFrame, matrix: csr_matrix, terms: list[str]
) -> None:
    found = build(engine).retriever(num_results=10, **options).transform(queries)
    assert found["qid"].drop_duplicates().tolist() == queries["qid"].tolist()
    for qid, query in zip(queries["qid"], queries["query_toks"]):
        rows, scores = found[found["qid"] == qid], exact_scores(matrix, terms, query)
        best = np.sort(scores[scores > 0])[::-1][:10]
        # PISA's weights are multiples of 0.001 in these queries' own precision; its scores and the others' have 24 bits.
        assert rows["score"].to_numpy() == pytest.approx(best, rel=1e-6)
        assert scores[rows["docid"]] == pytest.approx(best, rel=1e-6)
        assert rows["rank"].tolist() == list(range(len(best)))
        assert rows["docno"].tolist() == [f"doc {i}: ünï\ncode" if i % 7 == 0 else f"D{i}" for i in rows["docid"]]


@pytest.mark.parametrize("engine, options, share", APPROXIMATE)
def test_approximate_engines_find_most_of_the_top_10(
    engine: type[Engine], options: dict[str, Any], share: float, build: Any, queries: pd.DataFrame, matrix: csr_matrix,
    terms: list[str],
) -> None:  # fmt: skip
    found = build(engine).retriever(num_results=10, **options).transform(queries)
    kept = []
    for qid, query in zip(queries["qid"][:QUERIES], queries["query_toks"]):
        scores = exact_scores(matrix, terms, query)
        rows = found[found["qid"] == qid]
        kept.append(np.mean(scores[rows["docid"]] >= np.sort(scores)[-10] * (1 - 1e-6)) if len(rows) else 0)
        if engine is SeismicEngine:
            assert rows["score"].to_numpy() == pytest.approx(scores[rows["docid"]], rel=1e-5)
    assert np.mean(kept) >= share, np.mean(kept)


ALL = [pytest.param(*param.values[:2], marks=param.marks) for param in (EXACT[0], *EXACT[2:], *APPROXIMATE)]


@pytest.mark.parametrize("engine, options", ALL)
def test_columns_and_queries_match_other_retrievers(engine: type[Engine], options: dict[str, Any], build: Any) -> None:
    index = build(engine)
    retriever = index.retriever(num_results=3, **options)
    frame = pd.DataFrame(
        {
            "qid": ["q1", "q2", "q3", "q4", "q5"],
            "query": list("abcde"),
            "query_toks": [{}, None, {"never seen": 5.0}, {"Ġthe": 0.0}, {"Ġthe": 1.5, "never seen": 9.0}],
        }
    )
    found = retriever.transform(frame)
    assert list(found.columns) == ["qid", "query", "query_toks", "docid", "docno", "rank", "score"]
    assert set(found["qid"]) == {"q5"} and found["rank"].tolist() == list(range(len(found)))
    assert list(retriever.transform(frame.head(0)).columns) == list(found.columns)
    assert list(retriever.transform(frame.head(4)).columns) == list(found.columns)
    assert pt.inspect.transformer_outputs(retriever, list(frame.columns)) == list(found.columns)
    assert retriever == index.retriever(num_results=3, **options) and repr(retriever).startswith(repr(index))
    assert (retriever % 2).compile().num_results == 2
    assert len((retriever % 2).compile().transform(frame)) == 2
    other = ImpactVector({"Ġthe": 1.0}, Contract(weights="other", base_model="lm-two"))
    with pytest.raises(ContractError, match="lm-two.*lm-one"):
        retriever.transform(pd.DataFrame([{"qid": "q", "query_toks": other}]))
    with pytest.raises(DataError, match="query 'q1'"):
        retriever.transform(pd.DataFrame([{"qid": "q1", "query_toks": {"Ġthe": -1.0}}]))


@pytest.mark.parametrize("engine, options", ALL)
def test_k_above_the_collection_and_documents_of_a_pipeline(
    engine: type[Engine], options: dict[str, Any], tmp_path: Path
) -> None:
    documents = [{"docno": f"d{i}", "toks": ImpactVector({"a": 10 + i, f"t{i}": 3}, CONTRACT)} for i in range(40)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Seismic is approximate")
        index = engine(tmp_path / "index").index(documents)
    assert len(index) == 40 and index.contract == CONTRACT
    again = type(index)(tmp_path / "index")
    found = again.retriever(num_results=1000, **options).transform(pd.DataFrame([{"qid": "q", "query_toks": {"a": 2.0}}]))
    assert found["docno"].tolist() == [f"d{i}" for i in reversed(range(40))]
    with pytest.raises(ImpactIndexError, match="exists"):
        again.index(documents)


@pytest.mark.parametrize("engine, options", ALL)
def test_a_damaged_index_is_refused(engine: type[Engine], options: dict[str, Any], build: Any, tmp_path: Path) -> None:
    index = build(engine)
    largest = max(
        (file for file in index.directory.iterdir() if "manifest" not in file.name), key=lambda file: file.stat().st_size
    )
    content = largest.read_bytes()
    try:
        largest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ImpactIndexError, match=f"{largest.name} has changed"):
            engine(index.path).retriever(**options).transform(pd.DataFrame([{"qid": "q", "query_toks": {"Ġthe": 1.0}}]))
    finally:
        largest.write_bytes(content)
    with pytest.raises(ImpactIndexError, match="no index at"):
        engine(tmp_path / "none").retriever(**options).transform(pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0}}]))


@available("pyterrier_pisa")
def test_failed_indexing_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield {"docno": "d1", "toks": {"a": 1}}
        raise RuntimeError("out of memory")

    for documents, error, message in (
        (failing(), RuntimeError, "out of memory"),
        ([{"docno": "d1", "toks": {"a": 0.2}}], DataError, "nothing to index"),
        ([{"docno": "d1", "toks": {"a": -1}}, {"docno": "d1", "toks": {"a": 2}}], DataError, "'d1'"),
    ):
        with pytest.raises(error, match=message):
            PisaEngine(tmp_path / "index").index(documents)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # builds 70,001 posting lists
@available("seismic")
def test_seismic_uses_the_class_for_large_vocabularies(tmp_path: Path) -> None:
    documents = [{"docno": f"d{i}", "toks": {f"t{i}-{j}": 5 for j in range(700)} | {"a": 1 + i}} for i in range(100)]
    with pytest.warns(UserWarning, match="exact_recall"):
        index = SeismicEngine(tmp_path / "index").index(documents)
    assert (tmp_path / "index" / "seismic-lv.index.seismic").exists()
    queries = pd.DataFrame([{"qid": "q", "query_toks": {"t42-699": 1.0}}])
    assert index.retriever().transform(queries)["docno"].tolist() == ["d42"]


@available("pyterrier_pisa")
def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.pages import PAGES, blocks

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks(next(page for page in PAGES if page.stem == "engines"), "python3")[0], names)
    assert names["pipeline"].search("inverted index")["docno"].iloc[0] == "d1"
