"""Query tables on an OpenSearch server: what is sent, refusals, and that a real server encodes and searches as the table."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from inside.engines import TermNames, pipeline, reading
from inside.queries import QueryTokens, TableContent
from pyterrier_csplade import Contract, ContractError, ImpactIndexError, ImpactVector, OpenSearchIndex, QueryTable, Vocabulary
from support.bpe import KINDS, SPECIAL
from support.fake_opensearch import FakeCluster
from support.paths import ROOT

# Spaces, case, contractions, digits, special tokens, other scripts, signs of several bytes, and texts that are cut.
QUERIES = [
    "", "  ", "what is an inverted index?", " Heart attacks in 2024,  and 1999-2001\n(COVID-19) ", "<s> heart</s> attack",
    "don't we'LL x2 naïve Ünïcödé 検索 🙂", "ΟΔΟΣ İstanbul ſ 'ſ 's", "a\u00a0b\u2003c \t\n\n d  ", "'S 're 'VE 'd'",
    "12345 ²³ Ⅷ ½",
    "e\u0301 \ufb01 x", "heart " * 60, "\u0301abc", "!!! ... %$# a.b 100%", "x\r\n\r\ny  \n z", "١٢٣ ٤٥", "--\nheart\n",
    "  leading", "a  b   c    d", "\x1c\x1fa\x85b\u200bc", "𝔘𝔫𝔦 𝟙𝟚", "heart heart Heart", "query: heart",
]  # fmt: skip


def table(kind: str, *, counts: bool = False, **contract: Any) -> QueryTable:
    """A table of random weights, most with one term of expansion."""
    backend = KINDS[kind]() if kind in KINDS else Tokenizer.from_file(str(ROOT / "pyterrier_csplade" / kind / "tokenizer.json"))
    vocabulary = Vocabulary.from_tokens(backend.get_vocab(), special_ids=range(len(SPECIAL)), size=100_000)
    documents = Contract(weights="w", base_model="lm-one", **contract)
    tokens = QueryTokens(backend.to_str(), documents, vocabulary.token_ids)
    size, generator = len(tokens.vocabulary), np.random.default_rng(1)
    weights = generator.random(size, dtype=np.float32) + 0.1
    weights[::7] = 0
    added = generator.integers(0, size, size)
    expansion = csr_matrix((np.full(size, 0.5), added, np.arange(size + 1)), shape=(size, size))
    return QueryTable(TableContent.make(documents, tokens, weights, expansion, counts=counts))


def vector(found: dict[str, Any]) -> dict[str, float]:
    """The vector in the answer of the server for one query: field of a term to weight."""
    query = found["doc"]["_source"]["query"]
    clauses = [clause["rank_feature"] for clause in query.get("bool", {"should": []})["should"]]
    assert query == {"match_none": {}} or query["bool"]["minimum_should_match"] == 1
    return {clause["field"]: clause["boost"] for clause in clauses}


def test_a_pipeline_holds_the_tokenizer_and_the_rows() -> None:
    made = table("smollm-2", query_prefix="query: ", query_length=20, add_bos=True)
    body = json.loads(json.dumps(pipeline(made, TermNames())))
    params = body["processors"][0]["script"]["params"]
    assert (params["prefix"], params["room"], params["counts"], params["field"]) == ("query: ", 19, False, "impacts")
    column = params["columns"]["Ġheart"]
    assert made.vocabulary[column] == "Ġheart" and "<s>" not in params["columns"]
    row = {term: weight for term, weight in made.explain("a heart")["Ġheart"].items() if weight > 0}
    assert params["rows"][column] == pytest.approx(row)
    assert params["splits"] == [{"kind": "digits", "longest": 1}, {"kind": "gpt2"}] and params["special"] == SPECIAL
    assert made.contract.fingerprint[:12] in body["description"]


def test_terms_have_the_names_of_the_index() -> None:
    made = table("smollm-2")
    by_id = pipeline(made, TermNames(made.vocabulary))["processors"][0]["script"]["params"]
    names = {name for row in by_id["rows"] for name in row}
    assert names <= {f"t{i}" for i in made.vocabulary.token_ids}
    dotted = pipeline(made, TermNames())["processors"][0]["script"]["params"]
    assert not any("." in name for row in dotted["rows"] for name in row)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda made: setattr(made, "normalizer", normalizers.StripAccents()), "normalizer StripAccents"),
        (lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Metaspace()), "pre-tokenizer Metaspace"),
        (lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Digits()), "pre-tokenizer without bytes"),
        (lambda made: setattr(made, "model", models.WordPiece({"a": 0}, unk_token="a")), "model WordPiece"),
        (lambda made: made.add_tokens(["attack"]), "token 'attack', which takes what is beside it"),
    ],
)  # fmt: skip
def test_other_tokenizers_are_refused_by_name(change: Any, part: str) -> None:
    made = KINDS["smollm-2"]()
    change(made)
    with pytest.raises(ContractError, match=f"cannot read queries as this tokenizer does .{part}"):
        reading(made.to_str(), split_special_tokens=False)


def test_a_table_for_another_encoder_is_refused() -> None:
    fake = FakeCluster()
    index = OpenSearchIndex(fake.client(), "docs")
    index.index([{"docno": "d", "toks": ImpactVector({"Ġheart": 2}, Contract(weights="other"))}])
    with pytest.raises(ContractError, match="makes no queries for 'docs'"):
        index.put_query_table(table("smollm-2"))
    with pytest.raises(ImpactIndexError, match="there is no index"):
        OpenSearchIndex(fake.client(), "none").put_query_table(table("smollm-2"))


def simulating(fake: FakeCluster, answer: Any) -> None:
    """Let the fake cluster answer a simulation, which it cannot do itself."""

    def fault(method: str, path: str, body: Any) -> Any:
        fake.faults.append(fault)
        if path.endswith("/_simulate"):
            return answer(json.loads(body) if isinstance(body, str) else body)
        return (200, {"acknowledged": True}) if "/_ingest/" in path else None

    fake.faults.append(fault)


def encoded(made: QueryTable, texts: list[str], scale: float = 1.0) -> list[dict[str, Any]]:
    """What a server that encodes as the table answers."""
    rows = made.transform(pd.DataFrame({"qid": texts, "query": texts}))["query_toks"]
    names = TermNames()
    return [
        {"doc": {"_source": {"query": {"bool": {"should": [
            {"rank_feature": {"field": f"impacts.{names(term)}", "boost": weight * scale}} for term, weight in row.items()
        ]}}}}}
        for row in rows
    ]  # fmt: skip


def strange(clause: Any) -> dict[str, Any]:
    """An answer with one clause."""
    return {"doc": {"_source": {"query": {"bool": {"should": [clause]}}}}}


def test_a_table_is_stored_only_if_the_server_encodes_as_it_does() -> None:
    fake, made = FakeCluster(), table("smollm-2")
    index = OpenSearchIndex(fake.client(), "docs")
    index.index([{"docno": "d", "toks": {"Ġheart": 2}}])

    def sources(body: Any) -> list[str]:
        return [doc["_source"]["query"] for doc in body["docs"]]

    fake.requests.clear()
    simulating(fake, lambda body: (200, {"docs": encoded(made, sources(body))}))
    assert index.put_query_table(made) == "csplade-docs"
    assert fake.requests[-1] == ("PUT", "/_ingest/pipeline/csplade-docs")
    for wrong, message in [
        (lambda body: encoded(made, sources(body), scale=1.01), "encodes 'what is .* differently from the table"),
        (lambda body: [{"doc": {"_source": {}}}] * 3, "encodes 'what is .* differently from the table"),
        (lambda body: [strange({"rank_feature": {}})] * 3, "encodes 'what is .* differently from the table"),
        (lambda body: [strange({"rank_feature": {"field": "a.b", "boost": None}})] * 3, "encodes 'what is .* differently"),
        (lambda body: encoded(made, sources(body))[:2], "does not answer as OpenSearch"),
        (
            lambda body: [{"error": {"type": "illegal_argument_exception", "reason": "no painless"}}] * 3,
            "cannot encode 'what is .*: illegal_argument_exception: no painless",
        ),
    ]:
        fake.faults.clear()
        fake.requests.clear()
        simulating(fake, lambda body, wrong=wrong: (200, {"docs": wrong(body)}))
        with pytest.raises(ImpactIndexError, match=message):
            index.put_query_table(made)
        assert "PUT" not in {method for method, _ in fake.requests}


@pytest.mark.parametrize(
    ("kind", "settings"), [("tiny", {}), ("llama-3", {"add_bos": True}), ("smollm-2", {"query_prefix": "query: "})]
)
@pytest.mark.filterwarnings("ignore:.*longer than:UserWarning")
def test_a_tokenizer_model_gives_the_tables_vectors(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    """As ml-commons computes them (SparseTokenizerModel.java): the weight of each decoded token, or 1."""
    made = scalar(table(kind, query_length=30, **settings))
    OpenSearchIndex(FakeCluster().client(), "docs").save_tokenizer_model(made, tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as packed:
        assert packed.namelist() == ["tokenizer.json", "idf.json"]
        tokenizer, weights = Tokenizer.from_str(packed.read("tokenizer.json").decode()), json.loads(packed.read("idf.json"))
    assert 0 < min(weights.values()) and max(weights.values()) <= 64 and not any("." in name for name in weights)
    names = TermNames()
    for query in filter(str.strip, QUERIES):
        decoded = [tokenizer.decode([i], skip_special_tokens=True) for i in dict.fromkeys(tokenizer.encode(query).ids)]
        # Tokens that are no index terms get the weight 1, and no document has them.
        found = {token: weights[token] for token in decoded if token in weights}
        vector = made.encode([query])
        wanted = {str(names(made.vocabulary[i])): float(w) for i, w in zip(vector.indices, vector.data)}
        if settings.get("query_prefix"):  # a space of its own may be the one of the prefix
            assert found.pop("Ġ", 0.0) < 1e-8
            wanted.pop("Ġ", None)
        assert {name: weight for name, weight in found.items() if weight > 1e-8} == pytest.approx(wanted, rel=1e-6), query


def scalar(made: QueryTable) -> QueryTable:
    """The table without its expansion."""
    empty = csr_matrix(made.expansion.shape, dtype=np.float32)
    contract = made.contract.replace(queries_for="", weights="w", training={})
    return QueryTable(TableContent.make(contract, made.content.tokens, made.weights, empty, counts=made.counts))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "expansion: make a table with"),
        ({"counts": True}, "tokens that count repeatedly"),
        ({"fold": "case+space"}, "folded terms"),
        ({"query_prefix": "query: he"}, "a prefix that changes the tokens"),
    ],
)
def test_a_tokenizer_model_that_cannot_be_is_refused(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    made = table("smollm-2", **settings)
    index = OpenSearchIndex(FakeCluster().client(), "docs")
    with pytest.raises(ContractError, match=f"ml-commons cannot express {reason}"):
        index.save_tokenizer_model(scalar(made) if settings else made, tmp_path / "model.zip")
    by_id = OpenSearchIndex(FakeCluster().client(), "docs", vocabulary=made.vocabulary)
    with pytest.raises(ContractError, match="terms that are named by token ids"):
        by_id.save_tokenizer_model(scalar(table("smollm-2")), tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()


@pytest.mark.opensearch
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("tiny", {}),
        ("llama-3", {}),
        ("llama-3", {"query_prefix": "query: ", "query_length": 20, "add_bos": True, "counts": True}),
        ("smollm-2", {"query_prefix": "query: he", "query_length": 30}),
        ("smollm-2", {"fold": "case+space"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*longer than:UserWarning")
def test_a_real_server_encodes_as_the_table(cluster: Any, kind: str, settings: dict[str, Any]) -> None:
    made, names = table(kind, **settings), TermNames()
    cluster.request("PUT", "/_ingest/pipeline/encode", pipeline(made, names))
    docs = [{"_source": {"query": query}} for query in QUERIES]
    answers = cluster.request("POST", "/_ingest/pipeline/encode/_simulate", {"docs": docs})["docs"]
    for query, weights, answer in zip(QUERIES, made.encode(QUERIES), answers, strict=True):
        wanted = {f"impacts.{names(made.vocabulary[i])}": float(w) for i, w in zip(weights.indices, weights.data)}
        assert vector(answer) == pytest.approx(wanted, rel=1e-5), query


@pytest.mark.opensearch
def test_a_real_server_searches_texts(cluster: Any) -> None:
    made = table("smollm-2")
    index = OpenSearchIndex(cluster.url, "texts")
    vectors = ["Ġheart", "Ġattack", "heart", "Ġof", "Ġthe", "Ġin"]
    index.index(
        [{"docno": f"d{i}", "toks": {term: 1 + (i * j) % 7 for j, term in enumerate(vectors)}} for i in range(20)],
    )
    name = index.put_query_table(made)
    for text in ("a heart attack", "the attack of 2024.", "nothing"):
        docs = {"docs": [{"_source": {"query": text}}]}
        query = cluster.request("POST", f"/_ingest/pipeline/{name}/_simulate", docs)["docs"][0]["doc"]["_source"]["query"]
        body = {"query": query, "size": 20, "sort": [{"_score": "desc"}, {"docno": "asc"}], "_source": False}
        hits = cluster.request("POST", "/texts/_search", body)["hits"]["hits"]
        wanted = (made >> index.retriever(num_results=20)).search(text)
        assert [hit["_id"] for hit in hits] == wanted["docno"].tolist()
        assert [hit["_score"] for hit in hits] == pytest.approx(wanted["score"].tolist(), rel=1e-5)
