"""One real OpenSearch node: exactness, awkward terms and values, aliases, and the documentation."""

from __future__ import annotations

import json
import random
import re
import textwrap
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from inside.engines import escape
from pyterrier_csplade import CSPLADE, DataError, ImpactIndexError, MatrixVectors, OpenSearchIndex, Vocabulary
from support.opensearch_cluster import CONTRACT, DOCUMENTS, VOCABULARY, assert_exact, collection, frame, queries
from support.paths import ROOT

pytestmark = pytest.mark.opensearch

TOKENS = 250


@pytest.fixture(scope="module")
def indexes(cluster: Any) -> dict[int, OpenSearchIndex]:
    """The collection on 1 and on 3 shards."""
    found = {}
    for shards in (1, 3):
        index = OpenSearchIndex(cluster.url, f"collection-{shards}")
        found[shards] = index.index_vectors(collection(), shards=shards, replicas=0, request_bytes=500_000)
    return found


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("k", [10, 1000])
def test_rankings_match_the_matrices(indexes: dict[int, OpenSearchIndex], shards: int, k: int) -> None:
    index = indexes[shards]
    assert len(index) == index.statistics["documents"] == DOCUMENTS
    assert index.statistics["postings"] == collection().matrix.nnz and index.contract == CONTRACT
    assert_exact(index.retriever(num_results=k)(frame(queries())), collection(), queries(), k)


@pytest.mark.parametrize("scale", [1e-30, 0.01, 250.0, 1e30])
def test_weights_of_any_size(indexes: dict[int, OpenSearchIndex], scale: float) -> None:
    scaled = [{term: weight * scale for term, weight in query.items()} for query in queries()[:10]]
    unknown = [{**query, "never": 1e30 * scale, "\ud800": scale} for query in scaled]
    result = indexes[3].retriever(num_results=100)(frame(unknown))
    assert_exact(result, collection(), scaled, 100)


def test_queries_without_results_harm_no_other_and_invalid_ones_are_refused(indexes: dict[int, OpenSearchIndex]) -> None:
    retriever = indexes[3].retriever(num_results=100)
    good, far = queries()[0], dict(zip(queries()[1], (1e30, 1e-7)))
    result = retriever(frame([good, {}, {"never": 1.0}, {term: 0.0 for term in good}, far]))
    assert list(result["qid"].unique()) == ["q0", "q4"]
    assert_exact(result[result["qid"] == "q0"], collection(), [good], 100)
    assert_exact(result[result["qid"] == "q4"].assign(qid="q0"), collection(), [far], 100)
    for weight in (-1.0, np.nan, np.inf, "1"):
        nonsense: Any = {**far, next(iter(good)): weight}
        with pytest.raises(DataError, match="query 'q1'"):
            retriever(frame([good, nonsense]))
    with pytest.raises(DataError, match="qid 'q0' appears twice"):
        retriever(frame([good, far]).assign(qid="q0"))


def test_weights_are_rounded_half_up_and_zeros_are_left_out(cluster: Any) -> None:
    index = OpenSearchIndex(cluster.url, "weights")
    with pytest.warns(UserWarning, match="2 of 4 weights became 0"):
        index.index([{"docno": "d", "toks": {"half": 0.5, "more": 1.5, "less": 0.49, "small": 0.3, "none": 0, "negative": -2}}])
    for term, impact in {"half": 1.0, "more": 2.0, "less": None, "small": None, "none": None, "negative": None}.items():
        assert index.retriever()(frame([{term: 1.0}]))["score"].tolist() == ([] if impact is None else [pytest.approx(impact)])
    for weight in (np.nan, np.inf, 513):
        with pytest.raises(DataError, match="document 'd'"):
            OpenSearchIndex(cluster.url, "refused").index([{"docno": "d", "toks": {"a": 1, "x": weight}}])
        assert not OpenSearchIndex(cluster.url, "refused").built()


def test_scorer_agrees_with_the_retriever(indexes: dict[int, OpenSearchIndex]) -> None:
    found = indexes[3].retriever(num_results=1500)(frame(queries()[:5]))
    scored = indexes[1].scorer()(found.sample(frac=1, random_state=3).drop(columns=["score", "rank"])).sort_index()
    assert scored["score"].to_numpy() == pytest.approx(found["score"].to_numpy(), rel=1e-6)


def test_ties_come_in_the_order_of_docnos(cluster: Any) -> None:
    docnos = [f"d{i}" for i in random.Random(1).sample(range(3000), 3000)] + ["Z", "é", "検", "🙂", "\uffee"]
    rows = [{"docno": docno, "toks": {"d": 2, "c": 4, "b": 6, "a": 3}} for docno in docnos]
    for shards in (1, 3):
        index = OpenSearchIndex(cluster.url, f"ties-{shards}")
        index.toks_indexer(shards=shards, replicas=0).index(rows)
        for k in (1, 3, 150, 3005):
            result = index.retriever(num_results=k)(frame([{"a": 0.1, "b": 0.2, "c": 0.3}, {"b": 0.3, "a": 0.1, "d": 0.4}]))
            assert result["docno"].tolist() == sorted(docnos)[:k] * 2


AWKWARD = [
    ".",
    "a.b",
    "..",
    "%",
    "%2E",
    "%25",
    "",
    " ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "*",
    "?",
    "_id",
    "docno",
    "impacts",
    "😀",
    "\ufeff",
    "Ġa",
]
AWKWARD += [
    '"',
    "\\",
    "/",
    "A",
    "a",
    "é",
    "e\u0301",
    "\u202e",
    "a) OR (b",
    '"}\n{"index":{"_id":"evil"}}',
    "#combine:0=9(a)",
    "z" * 32_766,
]


def test_awkward_terms_and_docnos_are_found_exactly(cluster: Any) -> None:
    docnos = [term if 0 < len(term.encode()) <= 512 else f"long {i}" for i, term in enumerate(AWKWARD)]
    rows = [{"docno": docno, "toks": {term: i + 1}} for i, (docno, term) in enumerate(zip(docnos, AWKWARD))]
    index = OpenSearchIndex(cluster.url, "awkward")
    index.toks_indexer(replicas=0, shards=3).index(rows)
    assert len(index) == len(AWKWARD)
    result = index.retriever()(frame([{term: 0.5} for term in AWKWARD]))
    assert result["qid"].tolist() == [f"q{i}" for i in range(len(AWKWARD))]
    assert result["docno"].tolist() == docnos
    assert result["score"].tolist() == [(i + 1) / 2 for i in range(len(AWKWARD))]
    assert index.retriever()(frame([{"a) OR (c": 1.0, "nothing": 1.0, "t*": 1.0}])).empty


def test_impacts_up_to_512_are_stored_exactly(cluster: Any) -> None:
    index = OpenSearchIndex(cluster.url, "impacts")
    index.toks_indexer(replicas=0).index({"docno": f"d{i}", "toks": {"a": i}} for i in range(1, 513))
    result = index.retriever()(frame([{"a": 1.0}]))
    assert result["score"].tolist() == list(range(512, 0, -1))
    with pytest.raises(DataError, match="above 512"):
        index.toks_indexer(overwrite=True).index([{"docno": "d", "toks": {"a": 513}}])


def test_ten_thousand_terms_and_more_query_terms_than_a_cluster_allows(cluster: Any) -> None:
    impacts = {f"x{i}": i % 512 + 1 for i in range(10_000)}
    index = OpenSearchIndex(cluster.url, "long")
    index.toks_indexer(replicas=0).index([{"docno": "d", "toks": impacts}, {"docno": "e", "toks": {"x7": 1}}])
    query = {f"x{i}": 0.25 for i in range(2000)}
    with pytest.raises(ImpactIndexError, match=r"query 'q1' has more terms.*1024.*allow_query_terms"):
        index.retriever()(frame([{"x7": 1.0}, query]))
    index.allow_query_terms(2000)
    result = index.retriever()(frame([{"x7": 1.0}, query]))
    assert result["score"].tolist() == [8.0, 1.0, sum(i % 512 + 1 for i in range(2000)) / 4, 0.25]


@pytest.mark.parametrize("by_token_id", [False, True])
def test_tokens_of_llama_3_are_found_alone(cluster: Any, by_token_id: bool) -> None:
    lines = files("llama_models").joinpath("llama3/tokenizer.model").read_text().splitlines()
    tokens = [_byte_level(line.split()[0]) for line in lines]
    assert len(set(tokens)) == len(tokens) == 128_000
    vocabulary = Vocabulary(tokens, range(len(tokens))) if by_token_id else None
    # All tokens that a server might interpret, and a tenth of the rest.
    awkward = [token for token in tokens if set(token) & set(".%*?\\/\"'") or len(token.encode()) > 60]
    assert len(awkward) > 7000
    tokens = list(dict.fromkeys([*awkward, *tokens[::10]]))
    # A document holds many tokens, each with impact 1: one that is lost or merged with another costs a point.
    parts = [tokens[start : start + TOKENS] for start in range(0, len(tokens), TOKENS)]
    index = OpenSearchIndex(cluster.url, f"llama-{by_token_id}".lower(), vocabulary=vocabulary)
    index.toks_indexer(replicas=0).index({"docno": f"d{i:04d}", "toks": dict.fromkeys(part, 1)} for i, part in enumerate(parts))
    result = index.retriever()(frame([dict.fromkeys(part, 1.0) for part in parts]))
    assert result["docno"].tolist() == [f"d{i:04d}" for i in range(len(parts))]
    assert result["score"].tolist() == [len(part) for part in parts]


def _byte_level(encoded: str) -> str:
    """A token of tiktoken's file in the spelling of the Hugging Face tokenizer."""
    import base64

    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return "".join(spelling[byte] for byte in base64.b64decode(encoded))


def test_other_indexes_are_refused(cluster: Any, indexes: dict[int, OpenSearchIndex]) -> None:
    cluster.request("PUT", "/plain", {"mappings": {"properties": {"text": {"type": "text"}}}})
    with pytest.raises(ImpactIndexError, match="'plain' at .* is not an index of impacts"):
        OpenSearchIndex(cluster.url, "plain").retriever()(frame(queries()[:1]))
    with pytest.raises(ImpactIndexError, match="there is no index 'nowhere'.*build it"):
        OpenSearchIndex(cluster.url, "nowhere").retriever()(frame(queries()[:1]))
    with pytest.raises(ImpactIndexError, match="was refused by|400"):
        OpenSearchIndex(cluster.url, "bad-type").toks_indexer(meta={"x": "no_such_type"}).index(
            [{"docno": "d", "toks": {"a": 1}, "x": 1}]
        )
    with pytest.raises(DataError, match="document 'd' was refused.*For input string"):
        OpenSearchIndex(cluster.url, "bad-value").toks_indexer(meta={"x": "integer"}, replicas=0).index(
            [{"docno": "d", "toks": {"a": 1}, "x": "abc"}]
        )


def test_aliases_of_one_index_and_of_two(cluster: Any, indexes: dict[int, OpenSearchIndex]) -> None:
    wanted = queries()[:20]
    for name, rows in (("part-1", slice(0, 2000)), ("part-2", slice(2000, DOCUMENTS))):
        part = MatrixVectors(collection().docnos[rows], collection().matrix[rows], VOCABULARY, CONTRACT)
        OpenSearchIndex(cluster.url, name).index_vectors(part, replicas=0)
    adds = [{"add": {"index": index, "alias": alias}} for index, alias in (("part-*", "both"), ("collection-3", "live"))]
    cluster.request("POST", "/_aliases", {"actions": adds})
    for alias in ("both", "live"):
        index = OpenSearchIndex(cluster.url, alias)
        assert index.statistics["documents"] == len(index) == DOCUMENTS
        assert_exact(index.retriever(num_results=100)(frame(wanted)), collection(), wanted, 100)
        assert len(index.scorer()(frame(wanted[:1]).assign(docno=collection().docnos[-1]))) == 1


def test_documentation(cluster: Any, csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "pyterrier_csplade" / "pt_docs" / "opensearch.rst"
    text = page.read_text(encoding="utf-8").replace("http://localhost:9200", cluster.url)
    found = re.findall(r"^\.\. code-block:: (python3|json)\n((?: +.*\n|\n)+)", text, re.MULTILINE)
    blocks = [(language, re.sub(r"^:\w+:.*\n", "", textwrap.dedent(block), flags=re.MULTILINE)) for language, block in found]
    monkeypatch.setattr(CSPLADE, "tiny", lambda: csplade)
    names: dict[str, Any] = {}
    exec(compile("\n".join(block for language, block in blocks if language == "python3"), str(page), "exec"), names)
    assert all(len(names[name].search("inverted index")) > 0 for name in ("retriever", "bm25", "hybrid", "reranker"))
    assert set(names["recent"].search("dogs and cats")["year"]) == {2021, 2024}
    mapping, search = (json.loads(block) for language, block in blocks if language == "json")
    real = cluster.request("GET", "/docs/_mapping")["docs"]["mappings"]
    mapping["properties"]["text"].pop("analyzer")  # english, which a server without all languages lacks
    real["properties"]["text"].pop("analyzer", None)
    assert {key: real[key] for key in ("dynamic", "_source", "properties")} == {k: mapping[k] for k in mapping if k != "_meta"}
    assert mapping["_meta"]["csplade"].keys() <= real["_meta"]["csplade"].keys()
    assert cluster.request("POST", "/docs/_search", search)["hits"]["hits"] == []
    query = search["query"]["bool"]["must"][0]["bool"]
    (term, weight), *_ = csplade.query_encoder().search("inverted index")["query_toks"][0].items()
    query["should"] = [{"rank_feature": {"field": f"impacts.{escape(term)}", "boost": weight, "linear": {}}}]
    hits = cluster.request("POST", "/docs/_search", search)["hits"]["hits"]
    index = names["index"].retriever(filter=search["query"]["bool"]["filter"][0])
    expected = index(frame([{term: weight}]))
    assert [tuple(hit["sort"]) for hit in hits] == list(zip(expected["score"], expected["docno"]))
