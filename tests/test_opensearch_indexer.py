"""Loading into a cluster in memory that fails in every way a real one does."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_opensearch import FakeCluster, broken, items, status
from hypothesis import given
from hypothesis import strategies as st
from opensearchpy.exceptions import ConnectionTimeout
from scipy.sparse import csr_matrix

from pyterrier_csplade import Contract, ContractError, DataError, ImpactIndexError, ImpactVector, OpenSearchIndex, Vocabulary
from pyterrier_csplade._vectors import MatrixVectors
from pyterrier_csplade.opensearch import _bulk, _connection, _remote
from pyterrier_csplade.opensearch._names import escape
from pyterrier_csplade.opensearch._retry import Backoff
from pyterrier_csplade.opensearch._seen import Docnos

CONTRACT = Contract(weights="w", base_model="lm-one")
# Requests before the first bulk: version, mapping twice, creation.
BEFORE_BULK: list[Any] = [lambda *request: None] * 4


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.001, 0.002, 1.0))
    for module in (_remote, _connection):
        monkeypatch.setattr(module, "_BACKOFF", Backoff())
    monkeypatch.setattr(_remote, "_LOAD_BACKOFF", Backoff())


def documents(count: int = 25, contract: Contract | None = CONTRACT) -> list[dict[str, Any]]:
    return [{"docno": f"d{i}", "toks": ImpactVector({"a": i % 512 + 1, f"b{i}": 2}, contract)} for i in range(count)]


def expected(count: int = 25) -> dict[str, dict[str, int]]:
    return {f"d{i}": {"a": i % 512 + 1, f"b{i}": 2} for i in range(count)}


def impacts(cluster: FakeCluster, name: str = "docs") -> dict[str, dict[str, int]]:
    return {docno: document.get("impacts", {}) for docno, document in cluster.documents(name).items()}


def small_requests(index: OpenSearchIndex, **options: Any) -> Any:
    return index.toks_indexer(request_bytes=300, **options)


def test_documents_mapping_and_metadata(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    rows = [{**document, "year": 2000 + i, "url": "u", "body": "some text"} for i, document in enumerate(documents())]
    indexer = index.toks_indexer(meta={"year": "integer", "url": "keyword"}, text="body", shards=3, replicas=2)
    assert indexer.index_inputs() == [["docno", "toks", "year", "url", "body"]]
    assert indexer.index(iter(rows)) is index
    assert cluster.documents("docs")["d3"] == {
        "docno": "d3", "impacts": {"a": 4, "b3": 2}, "year": 2003, "url": "u", "body": "some text"
    }  # fmt: skip
    found = cluster.indexes["docs"]
    assert found["mappings"]["properties"] == {
        "docno": {"type": "keyword"},
        "impacts": {"type": "rank_features"},
        "year": {"type": "integer"},
        "url": {"type": "keyword"},
        "body": {"type": "text", "analyzer": "english"},
    }
    assert found["mappings"]["dynamic"] == "strict" and found["mappings"]["_source"] == {"excludes": ["impacts"]}
    assert found["settings"] == {"number_of_shards": 3, "number_of_replicas": 2, "refresh_interval": None}
    assert index.built() and len(index) == 25 and index.contract == CONTRACT
    assert index.statistics == {
        "documents": 25, "empty_documents": 0, "postings": 50, "dropped": 0, "quantization_loss": 0.0
    }  # fmt: skip


def test_settings_during_the_load(cluster: FakeCluster) -> None:
    seen = []

    def stream() -> Iterator[dict[str, Any]]:
        for document in documents():
            seen.append(dict(cluster.indexes.get("docs", {}).get("settings", {})))
            yield document

    small_requests(OpenSearchIndex(cluster.client(), "docs")).index(stream())
    assert seen[-1] == {"number_of_shards": 1, "refresh_interval": "-1", "number_of_replicas": 0}
    assert cluster.indexes["docs"]["settings"]["number_of_replicas"] == 1


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, DataError])
def test_settings_are_restored_when_a_load_fails(cluster: FakeCluster, error: type[BaseException]) -> None:
    def encoder() -> Iterator[dict[str, Any]]:
        yield from documents()
        raise error("enough")

    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(error):
        small_requests(index, replicas=2).index(encoder())
    assert cluster.indexes["docs"]["settings"] == {"number_of_shards": 1, "number_of_replicas": 2, "refresh_interval": None}
    assert not index.built()


def test_a_cluster_that_is_gone_is_not_waited_for_once_more(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.001, 0.002, 0.05))
    cluster.faults += BEFORE_BULK + [broken()] * 10_000
    with pytest.raises(ImpactIndexError, match="cannot reach"):
        OpenSearchIndex(cluster.client(), "docs").index(documents())
    assert [path for _, path in cluster.requests[-2:]] == ["/docs/_bulk", "/docs/_settings"]


def test_index_that_another_process_created_meanwhile_is_not_mixed_with_ours(cluster: FakeCluster) -> None:
    def another(*request: Any) -> None:
        cluster.faults.clear()
        other = CONTRACT.replace(weights="v", base_model="lm-two")
        with pytest.raises(DataError, match="enough"):
            small_requests(OpenSearchIndex(cluster.client(), "docs")).index(_failing(documents(contract=other)))

    cluster.faults += [*BEFORE_BULK[:3], another]
    with pytest.raises(ContractError, match="was begun with documents of lm-two.* these come from lm-one"):
        OpenSearchIndex(cluster.client(), "docs").index(documents())


def _failing(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from rows
    raise DataError("enough")


FAULTS = {
    "429": [status(429), status(429)],
    "503": [status(503)],
    "504": [status(504)],
    "reset": [broken()],
    "stall": [broken(ConnectionTimeout, "read timed out")],
    "many": [status(503), broken(), status(429), broken(ConnectionTimeout, "read timed out")],
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 7])
def test_what_passes_is_tried_again(cluster: FakeCluster, name: str, at: int) -> None:
    let_pass = [lambda *request: None] * at
    cluster.faults += [*let_pass, *FAULTS[name]]
    small_requests(OpenSearchIndex(cluster.client(), "docs")).index(documents())
    assert impacts(cluster) == expected() and OpenSearchIndex(cluster.client(), "docs").built()
    assert not cluster.faults


def test_items_that_the_server_was_too_busy_for_are_sent_again_alone(cluster: FakeCluster) -> None:
    bodies: list[str] = []

    def reject_first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        docno = found[0]["index"]["_id"]
        del cluster.documents("docs")[docno]
        error = {"type": "rejected_execution_exception", "reason": "queue is full"}
        return [{"index": {"_id": docno, "status": 429, "error": error}}, *found[1:]]

    cluster.faults += BEFORE_BULK + [items(cluster, reject_first)]
    cluster.faults += [lambda method, path, body: bodies.append(body)]  # type: ignore[func-returns-value]
    OpenSearchIndex(cluster.client(), "docs").index(documents(10))
    assert impacts(cluster) == expected(10)
    assert [json.loads(line) for line in bodies[0].splitlines()][0] == {"index": {"_id": "d0"}} and len(
        bodies[0].splitlines()
    ) == 2


def test_answer_that_is_cut_off_is_no_acknowledgement(cluster: FakeCluster) -> None:
    def lose(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for item in found[4:]:
            del cluster.documents("docs")[item["index"]["_id"]]
        return found[:4]

    cluster.faults += BEFORE_BULK + [items(cluster, lose)]
    OpenSearchIndex(cluster.client(), "docs").index(documents(10))
    assert impacts(cluster) == expected(10)


def test_document_that_the_server_refuses_is_named_and_the_index_stays_incomplete(cluster: FakeCluster) -> None:
    def refuse(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        cause = {"type": "number_format_exception", "reason": 'For input string: "abc"'}
        error = {"type": "mapper_parsing_exception", "reason": "failed to parse", "caused_by": cause}
        return [
            {**item, "index": {**item["index"], "status": 400, "error": error}} if i == 6 else item
            for i, item in enumerate(found)
        ]

    cluster.faults += BEFORE_BULK + [items(cluster, refuse)]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(DataError, match="document 'd6' was refused.*400 number_format_exception: For input string"):
        index.index(documents(10))
    assert not index.built()
    with pytest.raises(ImpactIndexError, match="load of 'docs'.*broke off: run the same indexing again"):
        index.retriever()([{"qid": "1", "query_toks": {"a": 1.0}}])
    index.index(documents(10))
    assert index.built() and impacts(cluster) == expected(10)


@pytest.mark.parametrize("fault", [status(429), status(503), broken(), broken(ConnectionTimeout, "read timed out")])
def test_patience_ends_with_one_error_of_ours(cluster: FakeCluster, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff.__init__, "__defaults__", (0.001, 0.002, 0.05))
    cluster.faults += BEFORE_BULK + [fault] * 10_000
    with pytest.raises(ImpactIndexError, match="cluster:9200") as caught:
        OpenSearchIndex(cluster.client(), "docs").index(documents())
    assert caught.value.__cause__ is None and "Traceback" not in str(caught.value)


def test_failure_does_not_wait_for_the_pauses_of_other_requests(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "pauses", lambda self: iter([60.0]))
    cluster.faults += BEFORE_BULK + [status(503), status(400, "bad")]
    start = time.monotonic()
    with pytest.raises(ImpactIndexError, match="503|400"):
        small_requests(OpenSearchIndex(cluster.client(), "docs")).index(documents())
    assert time.monotonic() - start < 30


def test_memory_is_bounded_and_requests_run_in_parallel(cluster: FakeCluster) -> None:
    read, ahead = 0, []
    gate = time.sleep

    def stream() -> Iterator[dict[str, Any]]:
        nonlocal read
        for document in documents(200):
            read += 1
            ahead.append(read - len(cluster.indexes.get("docs", {}).get("documents", {})))
            yield document

    cluster.faults += [lambda *request: gate(0.01)] * 1000  # type: ignore[list-item]
    small_requests(OpenSearchIndex(cluster.client(), "docs"), parallel=3).index(stream())
    per_request = 6  # documents of about 50 bytes in requests of up to 300
    assert max(ahead) <= (3 + 2) * per_request
    assert 2 <= cluster.most_under_way <= 3


def test_pauses_grow_and_are_drawn_anew() -> None:
    random.seed(1)
    pauses = [pause for pause, _ in zip(Backoff(1.0, 8.0, 1000.0).pauses(), range(400))]
    for place, bound in enumerate([1.0, 2.0, 4.0, 8.0, 8.0]):
        assert 0 <= pauses[place] <= bound
    later = np.array(pauses[4:])
    assert later.max() <= 8 and later.mean() == pytest.approx(4, rel=0.15) and len(set(later)) == len(later)
    assert list(Backoff(patience=0.0).pauses()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract": CONTRACT.replace(weights="v", base_model="lm-two")}, "lm-one.*lm-two"),
        ({"contract": CONTRACT.replace(impact_scale=50.0)}, "impact scale 100.0, not 50.0"),
        ({"scale": 0.5}, "scale 1.0, not 0.5"),
        ({"meta": ["url"]}, "another field 'url'"),
        ({"vocabulary": Vocabulary(["a", *(f"b{i}" for i in range(25))], range(26))}, "names of terms"),
    ],
)
def test_load_is_not_continued_otherwise_than_it_was_begun(cluster: FakeCluster, change: dict[str, Any], message: str) -> None:
    cluster.faults += BEFORE_BULK + [lambda *request: None] + [status(400, "bad")]
    with pytest.raises(ImpactIndexError):
        small_requests(OpenSearchIndex(cluster.client(), "docs")).index(documents())
    before = impacts(cluster)
    contract, vocabulary = change.pop("contract", CONTRACT), change.pop("vocabulary", None)
    again = OpenSearchIndex(cluster.client(), "docs", vocabulary=vocabulary)
    rows = [{**document, "url": "u"} for document in documents(contract=contract)]
    with pytest.raises((ContractError, ImpactIndexError), match=message):
        again.toks_indexer(**change).index(rows)
    assert impacts(cluster) == before
    again.toks_indexer(**change, overwrite=True).index(rows)
    assert again.built()


def test_complete_index_is_replaced_only_on_request_and_before_anything_is_encoded(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    index.index(documents())

    def encoder() -> Iterator[dict[str, Any]]:
        raise AssertionError("a document was encoded")
        yield {}

    with pytest.raises(ImpactIndexError, match="overwrite=True"):
        index.index(encoder())
    index.toks_indexer(overwrite=True).index(documents(3))
    assert impacts(cluster) == expected(3)


def test_documents_of_another_input_are_noticed(cluster: FakeCluster) -> None:
    cluster.faults += BEFORE_BULK + [lambda *request: None] * 2 + [status(400, "bad")]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(ImpactIndexError):
        small_requests(index, parallel=1).index(documents())
    with pytest.raises(ImpactIndexError, match=r"holds [1-9]\d* documents, 2 were sent.*another input"):
        index.index(documents(2))
    assert not index.built()


def test_exception_of_the_encoder_reaches_the_caller_and_leaves_no_complete_index(cluster: FakeCluster) -> None:
    def encoder() -> Iterator[dict[str, Any]]:
        yield from documents(60)
        raise MemoryError("out of memory at document 60")

    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(MemoryError, match="document 60"):
        small_requests(index).index(encoder())
    assert not index.built()
    index.index(documents(100))
    assert impacts(cluster) == expected(100)


@pytest.mark.parametrize("docno", [None, 3, "", "x" * 513, "é" * 257, "\ud800", float("nan")])
@pytest.mark.parametrize("position", [1, 500])
def test_docno_that_cannot_be_an_id_is_refused_with_its_position(cluster: FakeCluster, docno: Any, position: int) -> None:
    rows = documents(500)
    rows[position - 1]["docno"] = docno
    with pytest.raises(DataError, match=f"document {position} "):
        OpenSearchIndex(cluster.client(), "docs").index(rows)


@pytest.mark.parametrize(
    "docno", ['"}\n{"index":{"_id":"evil"}}', "a\tb", " d", "d ", "\ufeffd", "\u202ed", "../d", "\0", "x" * 512]
)
def test_docnos_and_fields_are_data(cluster: FakeCluster, docno: str) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    index.toks_indexer(meta=["url"]).index([{"docno": docno, "toks": {docno: 3}, "url": docno}])
    assert list(cluster.documents("docs")) == [docno]
    assert cluster.documents("docs")[docno]["url"] == docno
    assert index.retriever()([{"qid": "1", "query_toks": {docno: 2.0}}])[0]["docno"] == docno


def test_docno_that_comes_again_is_refused(cluster: FakeCluster) -> None:
    with pytest.raises(DataError, match="docno 'd1' comes again"):
        OpenSearchIndex(cluster.client(), "docs").index([*documents(3), documents(2)[1]])


def test_many_docnos_are_remembered_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyterrier_csplade.opensearch._seen._WAITING", 64)
    seen, reference = Docnos(), set()
    generator = random.Random(3)
    for _ in range(3000):
        docno = f"d{generator.randrange(2000)}"
        assert seen.add(docno) == (docno not in reference)
        reference.add(docno)
    assert len(seen) == len(reference)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "3", None, [1], b"1", 10**400])
def test_weight_that_is_no_number_is_refused(cluster: FakeCluster, weight: Any) -> None:
    with pytest.raises(DataError, match="document 'd': the weight of 'x'"):
        OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {"a": 1, "x": weight}}])


def test_impact_above_512_is_refused_and_rescaled_on_request(cluster: FakeCluster) -> None:
    rows = [{"docno": "d", "toks": {"a": 512, "b": 513, "c": 1}}]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(DataError, match=r"document 'd': the impact of 'b' is 513, above 512.*scale=.*0.998"):
        index.index(rows)
    assert "docs" not in cluster.indexes
    with pytest.warns(UserWarning, match="changed 0.195% of the sum of the weights, and 0 of 3 weights became 0"):
        index.toks_indexer(scale=0.5).index(rows)
    # 256, 256.5 and 0.5 became 256, 257 and 1: 1 of 513.
    assert impacts(cluster) == {"d": {"a": 256, "b": 257, "c": 1}}
    assert index.statistics["quantization_loss"] == pytest.approx(1 / 513)


def test_weights_are_rounded_half_up_and_what_becomes_0_is_left_out_and_counted(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.warns(UserWarning, match="2 of 5 weights became 0"):
        index.index(
            [{"docno": "d", "toks": {"a": 0.5, "b": 1.49, "c": 0.49, "d": 0.2, "e": -3.0, "f": 0, "g": np.float32(2.5)}}]
        )
    assert impacts(cluster) == {"d": {"a": 1, "b": 1, "g": 3}}
    assert index.statistics["dropped"] == 2 and index.statistics["postings"] == 3


def test_empty_documents_are_kept_and_too_many_are_refused(cluster: FakeCluster) -> None:
    rows = [{"docno": "e", "toks": {}}, *documents(3)]
    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.warns(UserWarning, match=r"1 of 4 documents \(25.0%\) have no impact"):
        index.index(rows)
    assert impacts(cluster)["e"] == {} and len(index) == 4
    with pytest.raises(DataError, match="75.0%.*max_empty"):
        index.toks_indexer(overwrite=True).index([*documents(1), *({"docno": f"e{i}", "toks": {}} for i in range(3))])
    assert not index.built()
    for nothing in ([], [{"docno": "e", "toks": {}}]):
        with pytest.raises(DataError, match="nothing to index"):
            index.toks_indexer(overwrite=True).index(nothing)


@pytest.mark.parametrize("toks", [None, "a", ["a"], 3.0])
def test_toks_that_are_no_dict_are_refused(cluster: FakeCluster, toks: Any) -> None:
    with pytest.raises(DataError, match="document 'd': toks must be a dict"):
        OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": toks}])


@pytest.mark.parametrize("value", [{"x"}, float("nan"), "\ud800"])
def test_field_that_json_cannot_hold_is_refused(cluster: FakeCluster, value: Any) -> None:
    indexer = OpenSearchIndex(cluster.client(), "docs").toks_indexer(meta=["url"])
    with pytest.raises(DataError, match="document 'd0' has a field"):
        indexer.index([{**documents(1)[0], "url": value}])
    with pytest.raises(DataError, match="document 'd0' has no field 'url'"):
        indexer.index(documents(1))


@given(st.text(), st.text())
def test_names_of_terms_have_no_dot_and_differ(one: str, other: str) -> None:
    first, second = escape(one), escape(other)
    assert first is not None and "." not in first and first != ""
    assert (first == second) == (one == other)


def test_terms_are_called_by_token_id_with_a_vocabulary(cluster: FakeCluster) -> None:
    vocabulary = Vocabulary(["a.b", "%", "Ġthe"], [7, 12, 400])
    index = OpenSearchIndex(cluster.client(), "docs", vocabulary=vocabulary)
    index.index([{"docno": "d", "toks": {"a.b": 3, "Ġthe": 4}}])
    assert impacts(cluster) == {"d": {"t7": 3, "t400": 4}}
    assert index.retriever()([{"qid": "1", "query_toks": {"a.b": 2.0, "unknown": 9.0}}])[0]["score"] == 6.0
    with pytest.raises(DataError, match="term 'foreign' which is not in the vocabulary"):
        index.toks_indexer(overwrite=True).index([{"docno": "d", "toks": {"foreign": 3}}])
    index.toks_indexer(overwrite=True).index([{"docno": "d", "toks": {"a.b": 3}}])
    for other in (None, Vocabulary(["a.b"], [8])):
        with pytest.raises(ImpactIndexError, match="open it with vocabulary=csplade.vocabulary"):
            OpenSearchIndex(cluster.client(), "docs", vocabulary=other).retriever()([{"qid": "1", "query_toks": {"a.b": 2.0}}])


@pytest.mark.parametrize("term", ["\ud800", "x" * 32_767, "é" * 16_384, 7])
def test_term_without_a_name_is_refused(cluster: FakeCluster, term: Any) -> None:
    with pytest.raises(DataError, match="document 'd': OpenSearch cannot index the term"):
        OpenSearchIndex(cluster.client(), "docs").index([{"docno": "d", "toks": {term: 1}}])


def test_encoded_vectors(cluster: FakeCluster) -> None:
    matrix = csr_matrix(np.array([[1, 0, 3], [0, 0, 0], [0, 512, 0]], dtype=np.int32))
    vectors = MatrixVectors(["d1", "d2", "d3"], matrix, ["a.b", "c", "d"], CONTRACT)
    index = OpenSearchIndex(cluster.client(), "docs")
    texts = [{"docno": docno, "text": f"text of {docno}"} for docno in vectors.docnos]
    with pytest.warns(UserWarning, match="no impact"):
        index.index_vectors(vectors, texts, text="text")
    assert impacts(cluster) == {"d1": {"a%2Eb": 1, "d": 3}, "d2": {}, "d3": {"c": 512}}
    assert cluster.documents("docs")["d2"]["text"] == "text of d2" and index.contract == CONTRACT
    for wrong, message in ((texts[::-1], "document 1 is 'd3', its vector 'd1'"), (texts[:2], "document 3 is None")):
        with pytest.raises(DataError, match=message):
            index.index_vectors(vectors, wrong, text="text", overwrite=True)
    with pytest.raises(DataError, match="'d4' comes after the last of the 3 vectors"):
        index.index_vectors(vectors, [*texts, {"docno": "d4", "text": ""}], text="text", overwrite=True)
    with pytest.raises(ValueError, match="documents="):
        index.index_vectors(vectors, text="text")


def test_entries_of_a_matrix_that_stand_twice_are_added_up(cluster: FakeCluster) -> None:
    matrix = csr_matrix((np.array([5, 1, 2]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    OpenSearchIndex(cluster.client(), "docs").index_vectors(MatrixVectors(["d"], matrix, ["a", "b", "c"]))
    assert impacts(cluster) == {"d": {"a": 1, "c": 7}}


@pytest.mark.parametrize(
    ("docnos", "vocabulary", "shape", "promised", "message"),
    [
        (["d"], ["a", "a", "c"], (1, 3), 1, "term 'a' stands twice"),
        (["d"], ["a", "b", "c"], (2, 3), 1, r"1 docnos and 3 terms, but a matrix of \(2, 3\)"),
        (["d", "e"], ["a", "b", "c"], (1, 3), 2, r"2 docnos and 3 terms, but a matrix of \(1, 3\)"),
        (["d"], ["a", "b", "c"], (1, 3), 5, "1 encoded documents came, not the 5"),
    ],
)
def test_vectors_that_do_not_fit_together_are_refused(
    cluster: FakeCluster, docnos: list[str], vocabulary: list[str], shape: tuple[int, int], promised: int, message: str
) -> None:
    class Vectors:
        contract = None

        def __init__(self) -> None:
            self.vocabulary = vocabulary

        def __len__(self) -> int:
            return promised

        def blocks(self) -> Iterator[Any]:
            yield docnos, csr_matrix(np.ones(shape, dtype=np.int32))

    index = OpenSearchIndex(cluster.client(), "docs")
    with pytest.raises(DataError, match=message):
        index.index_vectors(Vectors())
    assert not index.built()


@pytest.mark.parametrize("given", [["a text"], {"docno": "d"}, [("d", 1)]])
def test_what_is_no_stream_of_dicts_is_refused(cluster: FakeCluster, given: Any) -> None:
    with pytest.raises(DataError, match=r"document 1 must be a dict.*to_dict\('records'\)"):
        OpenSearchIndex(cluster.client(), "docs").index(given)


def test_impacts_of_two_scales_are_refused(cluster: FakeCluster) -> None:
    rows = [*documents(3), *documents(4, CONTRACT.replace(impact_scale=50.0))[3:]]
    with pytest.raises(ContractError, match="document 'd3' has impacts of scale 50, the documents before it of 100"):
        OpenSearchIndex(cluster.client(), "docs").index(rows)


def test_repr_of_an_indexer_is_the_call_that_makes_it(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    assert repr(index.toks_indexer()) == f"{index!r}.toks_indexer()"
    indexer = index.toks_indexer(meta=["url"], text="text", shards=3)
    assert repr(indexer) == f"{index!r}.toks_indexer(meta={{'url': 'keyword'}}, text='text', shards=3)"


def test_documents_of_two_encoders_are_refused(cluster: FakeCluster) -> None:
    other = CONTRACT.replace(weights="v", base_model="lm-two")
    with pytest.raises(ContractError, match="document 'd7' was encoded by lm-two.*lm-one"):
        OpenSearchIndex(cluster.client(), "docs").index([*documents(7), documents(8, other)[7]])


@pytest.mark.parametrize("arguments", [
    {"scale": 0}, {"max_empty": 2}, {"shards": "2"},
    {"shards": 0}, {"replicas": -1}, {"parallel": 0}, {"request_bytes": 0}, {"meta": ["a.b"]}, {"text": "toks"}
])  # fmt: skip
def test_arguments_that_cannot_work_are_refused(cluster: FakeCluster, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be|cannot be"):
        OpenSearchIndex(cluster.client(), "docs").toks_indexer(**arguments)
    with pytest.raises(TypeError, match="unknown arguments: batch"):
        OpenSearchIndex(cluster.client(), "docs").index([], batch=3)


def test_requests_hold_a_bounded_number_of_documents(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bulk, "_MAX_RECORDS", 4)
    OpenSearchIndex(cluster.client(), "docs").index(documents(10))
    assert [path for _, path in cluster.requests].count("/docs/_bulk") == 3
