"""BM25, filters and stored fields on one real OpenSearch node, together with learned weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import ImpactIndexError, OpenSearchIndex
from support.opensearch_cluster import frame

pytestmark = pytest.mark.opensearch


TEXTS = {
    "d1": ("inverted index terms postings", "physics", 2019),
    "d2": ("sparse retrieval expands terms terms", "physics", 2021),
    "d3": ("maximum over positions", "biology", 2022),
    "d4": ("dogs and cats", "biology", 2023),
    "d5": ("postings of sparse terms in an index of postings", "physics", 2024),
}


@pytest.fixture(scope="module")
def library(cluster: Any) -> OpenSearchIndex:
    rows = [
        {"docno": docno, "toks": {"sparse": 3 * i + 1, docno: 5}, "text": text, "book": book, "year": year, "tags": [book, "x"]}
        for i, (docno, (text, book, year)) in enumerate(TEXTS.items())
    ]
    index = OpenSearchIndex(cluster.url, "library")
    meta = {"book": "keyword", "year": "integer", "tags": "keyword"}
    return index.toks_indexer(meta=meta, text="text", analyzer="standard", shards=3, replicas=0).index(rows)


def bm25(query: str) -> dict[str, float]:
    """Lucene's formula, k1 = 1.2, b = 0.75, on the white space terms of the texts."""
    lengths = {docno: len(text.split()) for docno, (text, _, _) in TEXTS.items()}
    mean = sum(lengths.values()) / len(lengths)
    scores: dict[str, float] = {}
    for docno, (text, _, _) in TEXTS.items():
        for term in query.split():
            df = sum(term in other.split() for other, _, _ in TEXTS.values())
            tf = text.split().count(term)
            idf = np.log(1 + (len(TEXTS) - df + 0.5) / (df + 0.5))
            if tf:
                weight = tf / (tf + 1.2 * (1 - 0.75 + 0.75 * lengths[docno] / mean))
                scores[docno] = scores.get(docno, 0.0) + idf * weight
    return scores


def test_bm25_is_lucenes_formula_whatever_the_shards(library: OpenSearchIndex) -> None:
    for query in ("terms postings", "sparse index", "postings terms sparse index dogs"):
        result = library.bm25()(pd.DataFrame([{"qid": "1", "query": query}]))
        expected = sorted(bm25(query).items(), key=lambda hit: (-hit[1], hit[0]))
        assert result["docno"].tolist() == [docno for docno, _ in expected]
        assert result["score"].to_numpy() == pytest.approx([score for _, score in expected], rel=1e-6)
    nothing = pd.DataFrame({"qid": ["1", "2", "3"], "query": ["", "!?", 'terms" OR *:* AND (']})
    assert set(library.bm25()(nothing)["qid"]) <= {"3"}


def test_filters_fields_and_stored_text(library: OpenSearchIndex) -> None:
    query = frame([{"sparse": 2.0}])
    for condition, expected in (
        ({"term": {"book": "physics"}}, ["d5", "d2", "d1"]),
        ({"range": {"year": {"gte": 2021, "lt": 2024}}}, ["d4", "d3", "d2"]),
        ({"bool": {"must_not": [{"term": {"tags": "biology"}}]}}, ["d5", "d2", "d1"]),
        ({"term": {"book": "never"}}, []),
    ):
        found = library.retriever(filter=condition, include_fields=["year", "text", "tags"])(query)
        assert found["docno"].tolist() == expected
        assert found["score"].tolist() == [2.0 * (3 * (int(docno[1]) - 1) + 1) for docno in expected]
        assert [(text, year) for text, year in zip(found["text"], found["year"])] == [TEXTS[d][::2] for d in expected]
        words = pd.DataFrame([{"qid": "1", "query": "terms cats maximum postings index"}])
        assert set(library.bm25(filter=condition)(words)["docno"]) == set(expected)
    with pytest.raises(ImpactIndexError, match="unknown field .nonsense"):
        library.retriever(filter={"nonsense": {}})(query)


def test_hybrids_and_an_experiment_on_one_engine(library: OpenSearchIndex) -> None:
    topics = pd.DataFrame([{"qid": "1", "query": "sparse terms", "query_toks": {"sparse": 1.0, "d4": 2.0}}])
    lexical: Any = library.bm25()
    learned: Any = library.retriever()
    both = {docno: score for docno, score in zip(*[learned(topics)[c] for c in ("docno", "score")])}
    summed = (lexical + learned)(topics)
    for docno, score in zip(summed["docno"], summed["score"]):
        assert score == pytest.approx(both.get(docno, 0.0) + bm25("sparse terms").get(docno, 0.0), rel=1e-6)
    assert set((lexical | learned)(topics)["docno"]) == set(TEXTS)
    assert ((lexical % 2) >> library.scorer())(topics)["score"].tolist() == pytest.approx(
        [both[docno] for docno in (lexical % 2)(topics)["docno"]]
    )
    qrels = pd.DataFrame([{"qid": "1", "docno": "d4", "label": 1}])
    table = pt.Experiment(
        {"BM25": lexical, "CSPLADE": learned, "sum": lexical + learned}, topics, qrels, ["recip_rank"], validate="error"
    )
    assert table["recip_rank"].tolist() == [0.0, 1.0, 1.0]


def test_long_texts_as_queries_are_refused_in_one_sentence(library: OpenSearchIndex) -> None:
    for long in ("terms postings " * 8000, " ".join(f"word{i}" for i in range(20_000))):
        assert len(long) > 100_000
        with pytest.raises(ImpactIndexError, match="query '1' has more terms than the cluster allows.*use fewer terms"):
            library.bm25().search(long)
