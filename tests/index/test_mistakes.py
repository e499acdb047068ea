"""Common mistakes raise one exception early, which names the mistake and its solution."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array, csc_matrix, csr_array

from pyterrier_csplade import (
    CSPLADE,
    Contract,
    ContractError,
    CspladeError,
    DataError,
    ImpactIndex,
    ImpactIndexError,
    MatrixVectors,
    Quantizer,
)
from support.indexes import CONTRACT, docnos, documents, search
from support.models import language_model, tokenizer
from support.texts import DOCUMENTS

FRAME = pd.DataFrame({"docno": list(DOCUMENTS), "text": list(DOCUMENTS.values())})


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    return ImpactIndex(tmp_path_factory.mktemp("mistakes") / "index").index(documents(contract=CONTRACT))


def queries(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"qid": ["1", "2"], "query_toks": [{"a": 1.0}, {"a": 2.0}], **columns})


# ------------------------------------------------------------------------------------------------------------ documents


@pytest.mark.parametrize("given", [FRAME, ["a text"], [("d1", "text")], {"docno": "d", "toks": {}}, "abc"])
def test_what_is_no_stream_of_dicts_is_refused_with_the_way_out(tmp_path: Path, csplade: CSPLADE, given: Any) -> None:
    index = ImpactIndex(tmp_path / "i")
    for indexer in (index, csplade.doc_encoder() >> index):
        with pytest.raises(DataError, match=r"document 1 must be a dict, found .*frame\.to_dict\('records'\)"):
            indexer.index(given)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_turns_bad_is_refused_with_its_place(csplade: CSPLADE) -> None:
    stream = [*FRAME.to_dict("records"), "a text"]
    with pytest.raises(DataError, match="document 9 must be a dict"):
        list(csplade.doc_encoder(batch_size=1).transform_iter(stream))
    with pytest.raises(DataError, match="query 1 must be a dict, found 'cats'"):
        csplade.query_encoder()(["cats"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_an_exception_of_the_collection_says_how_far_it_came(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from documents(60)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone") as caught:
        ImpactIndex(tmp_path / "i").index(broken())
    assert getattr(caught.value, "__notes__", []) == ["after 60 documents; nothing was indexed"]


def test_a_text_alone_is_no_list_of_texts(csplade: CSPLADE) -> None:
    for encode in (csplade.encode_docs, csplade.encode_queries):
        with pytest.raises(DataError, match=r"expected a list of texts, found one text, 'dogs and cats': put it in a list"):
            encode("dogs and cats")
    expected = csplade.encode_docs(["a", "b"]).toarray()
    for texts in (pd.Series(["a", "b"], index=[7, 3]), np.array(["a", "b"]), ("a", "b")):
        np.testing.assert_array_equal(csplade.encode_docs(texts).toarray(), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", " ", "a,b"])
def test_metadata_that_terrier_cannot_name_are_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"metadata field {name!r}"):
        ImpactIndex(tmp_path / "i").toks_indexer(meta=[name])


def test_metadata_come_back_as_they_were_or_are_refused(tmp_path: Path) -> None:
    """Terrier strips control characters and spaces at both ends, and a byte order mark."""
    kept = ["mid\ndle", "", "\u00a0x\u3000", "x\u2028", "\x7fx\x85"]
    rows = [{**document, "text": text} for document, text in zip(documents(), kept)]
    index = ImpactIndex(tmp_path / "i")
    index.toks_indexer(meta=["text"]).index(rows)
    queries = pd.DataFrame({"qid": ["q"], "query_toks": [{"a": 1.0}]})
    found = index.retriever(include_fields=["text"])(queries)
    assert dict(zip(found["docno"], found["text"])) == {row["docno"]: row["text"] for row in rows}
    for text in ("  indented", "line\n", "tab\t", "\0x", " ", "\ufeffmark"):
        with pytest.raises(
            DataError, match=f"document '{rows[0]['docno']}': metadata field 'text' starts or ends with a character"
        ):
            ImpactIndex(tmp_path / "j").toks_indexer(meta=["text"]).index([{**rows[0], "text": text}])


def test_the_name_of_one_field_is_not_taken_apart(tmp_path: Path) -> None:
    rows = [{**document, "url": f"u{i}", "a b": "é"} for i, document in enumerate(documents())]
    index = ImpactIndex(tmp_path / "i").toks_indexer(meta="url").index(rows)
    assert index.retriever(num_results=1, include_fields="url")(queries())["url"].tolist() == ["u9", "u9"]  # type: ignore[arg-type]
    index.toks_indexer(meta=["a b"], overwrite=True).index(rows)
    assert index.retriever(num_results=1, include_fields=["a b"])(queries())["a b"].tolist() == ["é", "é"]


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "0.5", None])
def test_a_share_is_from_0_to_1(index: ImpactIndex, share: Any) -> None:
    with pytest.raises(ValueError, match="max_empty must be a number from 0 to 1"):
        index.toks_indexer(max_empty=share)


def test_docnos_of_numpy_are_text(tmp_path: Path) -> None:
    rows = [{**document, "docno": np.str_(document["docno"])} for document in documents()]
    assert docnos(ImpactIndex(tmp_path / "i").index(rows)) == [f"d{i}" for i in range(10)]


def test_matrices_of_any_format_are_vectors_and_a_matrix_alone_is_not(tmp_path: Path) -> None:
    dense = np.array([[1, 0, 3], [0, 2, 0]])
    for number, matrix in enumerate((dense, csc_matrix(dense), coo_array(dense), csr_array(dense))):
        vectors = MatrixVectors(np.array(["x", "y"]), matrix, ["a", "b", "c"])  # type: ignore[arg-type]
        index = ImpactIndex(tmp_path / str(number)).index_vectors(vectors)
        assert list(index.get_corpus_iter()) == [{"docno": "x", "toks": {"a": 1, "c": 3}}, {"docno": "y", "toks": {"b": 2}}]
    for encoded in (csc_matrix(dense), None):
        with pytest.raises(TypeError, match=r"such as MatrixVectors\(.*, found (csc_matrix|NoneType)"):
            ImpactIndex(tmp_path / "none").index_vectors(encoded)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- queries


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive"])
@pytest.mark.parametrize("value", [0, -1, 2.5, None, "5"])
@pytest.mark.parametrize("name", ["num_results", "threads"])
def test_counts_are_whole_numbers(index: ImpactIndex, name: str, value: Any, algorithm: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, found {value!r}"):
        index.retriever(algorithm=algorithm, **{name: value})


@pytest.mark.parametrize("qid", [None, float("nan"), pd.NA])
def test_a_query_without_a_qid_is_refused_with_its_row(index: ImpactIndex, qid: Any) -> None:
    for transformer in (index.retriever(), index.scorer()):
        with pytest.raises(DataError, match="row 1 has no qid"):
            transformer(queries(qid=["1", qid], **({} if transformer == index.retriever() else {"docno": ["d1", "d2"]})))


def test_a_number_of_results_in_the_place_of_a_model(index: ImpactIndex) -> None:
    with pytest.raises(TypeError, match="num_results=10?"):
        index.retriever(10)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (None, TypeError, "pair .language model, tokenizer., found NoneType"),
        (language_model(), TypeError, "pair .language model, tokenizer., found LlamaForCausalLM"),
        ((tokenizer(), language_model()), TypeError, r"found \w*Tokenizer\w*, LlamaForCausalLM"),
        ((language_model(),), TypeError, "pair"),
        ("./no/such/model", FileNotFoundError, "there is no directory ./no/such/model"),
        ("/no/such/model", FileNotFoundError, "there is no directory"),
    ],
)
def test_what_is_no_model_is_refused_at_once(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CSPLADE(model)


def test_a_directory_without_a_checkpoint_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="contains no config.json"):
        CSPLADE(tmp_path)
    with pytest.raises(FileNotFoundError, match="contains no adapter_config.json"):
        CSPLADE("some/model", adapter=tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"it is an adapter: load it with CSPLADE\(base model, adapter=...\)"):
        CSPLADE(tmp_path, adapter=tmp_path)


def test_settings_beside_the_contract_of_a_checkpoint_are_not_ignored(tmp_path: Path) -> None:
    CSPLADE((language_model(), tokenizer())).save(tmp_path)
    stored = CSPLADE(tmp_path).contract
    assert CSPLADE(tmp_path, contract=stored).contract == stored
    for name, value in (("document_length", 7), ("impact_scale", 50.0), ("query_prefix", "query: ")):
        with pytest.raises(ContractError, match=f"{name}={value!r} contradicts .* which has {getattr(stored, name)!r}"):
            CSPLADE(tmp_path, contract=stored.replace(**{name: value}))


def test_loading_shows_no_progress_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    CSPLADE((language_model(), tokenizer())).save(tmp_path)
    capfd.readouterr()
    CSPLADE(tmp_path).encode_docs(["a text"])
    assert capfd.readouterr().err == ""
    CSPLADE(tmp_path, verbose=True).encode_docs(["a text"])
    assert "Loading weights" in capfd.readouterr().err


# --------------------------------------------------------------------------------------------------------------- scales


@pytest.mark.filterwarnings("ignore:weights were rounded")
def test_an_index_knows_the_scale_of_its_impacts(tmp_path: Path, csplade: CSPLADE) -> None:
    for quantizer, scale in ((Quantizer(50), 50.0), ("default", 100.0), (None, 1.0)):
        index = ImpactIndex(tmp_path / str(scale))
        (csplade.doc_encoder(quantizer=quantizer) >> index).index(FRAME.to_dict("records"))
        assert index.contract == csplade.contract.replace(impact_scale=scale)


def test_impacts_of_two_scales_are_refused(tmp_path: Path, csplade: CSPLADE) -> None:
    rows = FRAME.to_dict("records")
    mixed = [*csplade.doc_encoder()(rows[:3]), *csplade.doc_encoder(quantizer=Quantizer(50))(rows[3:])]
    with pytest.raises(ContractError, match="document 'd4' has impacts of scale 50, document 'd1' of 100"):
        ImpactIndex(tmp_path / "i").index(mixed)


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive"])
def test_a_model_of_another_scale_than_the_index_is_said(tmp_path: Path, csplade: CSPLADE, algorithm: str) -> None:
    other = CSPLADE(csplade.model, contract=Contract(impact_scale=7))  # type: ignore[arg-type]
    index = ImpactIndex(tmp_path / "i")
    (other.doc_encoder() >> index).index(FRAME.to_dict("records"))
    retriever = index.retriever(algorithm=algorithm)
    with pytest.warns(UserWarning, match="scale 7, the model of the queries has scale 100: rankings stay the same, but scores"):
        found = (csplade.query_encoder() >> retriever).search("dogs")
    assert found["docno"].tolist() == (other.query_encoder() >> retriever).search("dogs")["docno"].tolist()


# ------------------------------------------------------------------------------------------------------------- identity


def test_equal_indexes_and_indexers_are_equal(tmp_path: Path, index: ImpactIndex) -> None:
    again = ImpactIndex(str(index.path))
    assert again == index and hash(again) == hash(index) and repr(again) == repr(index)
    assert index not in (ImpactIndex(tmp_path / "other"), ImpactIndex(index.path, memory=True), "x")
    indexer = index.toks_indexer(meta=["url"], overwrite=True, on_duplicate="last", max_empty=0.1)
    assert repr(index.toks_indexer()) == f"{index!r}.toks_indexer()"
    assert repr(eval(repr(indexer), {"ImpactIndex": ImpactIndex})) == repr(indexer)


# ---------------------------------------------------------------------------------------------------------- Java, Ctrl-C


def test_java_home_that_names_nothing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyterrier_csplade.index.terrier import Jdk4pyInit

    monkeypatch.setenv("JAVA_HOME", "/no/such/java")
    with pytest.raises(CspladeError, match="JAVA_HOME names /no/such/java, which does not exist: unset it"):
        Jdk4pyInit().pre_init(None)


INTERRUPTED = """
import sys, time
from pyterrier_csplade import ImpactIndex
def stream():
    for number in range(10_000):
        if number == 3:
            print("started", flush=True)
        time.sleep(0.01)
        yield {"docno": f"n{number}", "toks": {"a": 1}}
try:
    ImpactIndex(sys.argv[1]).toks_indexer(overwrite=True).index(stream())
except KeyboardInterrupt:
    print("interrupted")
    raise
"""


@pytest.mark.parametrize(
    ("number", "codes"),
    [(signal.SIGINT, (-signal.SIGINT,)), pytest.param(signal.SIGTERM, (-signal.SIGTERM,), marks=pytest.mark.slow)],
)
def test_a_signal_ends_indexing_soon_and_leaves_what_was_there(tmp_path: Path, number: signal.Signals, codes: Any) -> None:
    index = ImpactIndex(tmp_path / "i").index(documents())
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(index.path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    start = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - start < 10 and process.returncode in codes
    if number == signal.SIGINT:  # as in a notebook, whose process keeps running
        assert output == "interrupted\n" and list(tmp_path.iterdir()) == [tmp_path / "i"]
    again = ImpactIndex(index.path)
    again.verify()
    assert search(again, {"a": 1}) == [(f"d{i}", i + 1) for i in range(9, -1, -1)]
    again.toks_indexer(overwrite=True).index(documents(3))
    assert list(tmp_path.iterdir()) == [tmp_path / "i"]


# ------------------------------------------------------------------------------------------------------- broken indexes


def test_every_use_of_what_is_no_index_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no index")
    uses: list[Callable[[ImpactIndex], Any]] = [
        lambda index: index.verify(),
        lambda index: index.retriever()(queries()),
        lambda index: index.retriever(algorithm="exhaustive")(queries()),
        lambda index: index.scorer()(queries(docno=["d1", "d2"])),
    ]
    for path in ("file", "nowhere", "."):
        for use in uses:
            with pytest.raises(ImpactIndexError, match="no index at"):
                use(ImpactIndex(tmp_path / path))
