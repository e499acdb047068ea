"""Query tables: what they encode, their files, and which documents their vectors may be compared with."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy.sparse import csr_matrix
from tokenizers import Tokenizer

from inside.storage import manifest
from pyterrier_csplade import (
    CSPLADE,
    Contract,
    ContractError,
    DataError,
    FoldTerms,
    ImpactIndex,
    ImpactVector,
    OpenSearchIndex,
    QueryTable,
)
from pyterrier_csplade.engines import PisaEngine
from pyterrier_csplade.queries import TABLE_FILE
from support import fake_engines
from support.disks import small_disk
from support.fake_opensearch import FakeCluster
from support.models import TEXTS, language_model, tokenizer
from support.texts import DOCUMENTS, dense

QUERIES = [*TEXTS, "inverted index", "dogs and cats", "causal language models", "a text of related terms", "inverted index"]


@pytest.fixture(scope="module")
def table(csplade: CSPLADE) -> QueryTable:
    return QueryTable.fit(csplade, QUERIES, verbose=False)


@pytest.fixture(scope="module")
def saved(table: QueryTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "my.table"
    table.save(path)
    return path


@pytest.fixture(scope="module")
def index(csplade: CSPLADE, tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    index = ImpactIndex(tmp_path_factory.mktemp("table-index") / "index")
    (csplade.doc_encoder() >> index).index([{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()])
    return index


@pytest.fixture
def other() -> CSPLADE:
    """A model of other weights."""
    return CSPLADE((language_model(seed=9), tokenizer()))


def test_a_vector_is_the_sum_of_the_rows_of_the_tokens(csplade: CSPLADE, table: QueryTable) -> None:
    query = "dogs and dogs"
    ids = csplade.backbone.tokenizer(query, add_special_tokens=False)["input_ids"]
    columns = {csplade.vocabulary.token_ids.tolist().index(i) for i in ids}
    expected = np.zeros(len(csplade.vocabulary))
    for column in columns:
        expected[column] += table.weights[column]
        expected += table.expansion[column].toarray()[0]
    found = table.encode([query])
    assert found.dtype == np.float32 and dense(found)[0] == pytest.approx(expected, rel=1e-5)
    assert len(columns) < len(ids) and (np.diff(table.expansion.indptr) <= 4).all() and table.expansion.nnz > 0
    explained = table.explain(query)
    assert set(explained) == {csplade.vocabulary[column] for column in columns}
    summed = np.zeros(len(csplade.vocabulary))
    for row in explained.values():
        assert list(row.values()) == sorted(row.values(), reverse=True)
        for term, weight in row.items():
            summed[csplade.vocabulary.column(term)] += weight
    assert summed == pytest.approx(expected, rel=1e-5)


def test_it_comes_closer_to_the_teacher_than_its_tokens_alone(csplade: CSPLADE, table: QueryTable) -> None:
    def cosine(vectors: csr_matrix) -> float:
        one, two = dense(vectors), dense(csplade.encode_queries(QUERIES))
        return float(((one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)).mean())

    binary = QueryTable.from_weights(csplade, np.ones(len(csplade.vocabulary)))
    assert cosine(table.encode(QUERIES)) > cosine(binary.encode(QUERIES))


def test_transform_keeps_rows_and_columns(table: QueryTable) -> None:
    frame = pd.DataFrame({"qid": ["2", "1"], "query": ["dogs", ""], "more": [1, 2]}, index=[7, 3])
    found = table.transform(frame)
    assert found.drop(columns="query_toks").equals(frame) and found["query_toks"][3] == {}
    vector = found["query_toks"][7]
    assert isinstance(vector, ImpactVector) and vector.contract == table.contract
    assert list(vector.values()) == sorted(vector.values(), reverse=True)
    expected = dense(table.encode(["dogs"]))[0]
    assert {table.vocabulary.column(term): weight for term, weight in vector.items()} == {
        int(column): expected[column] for column in np.flatnonzero(expected)
    }
    assert table.transform(frame[:0])["query_toks"].tolist() == []


def test_one_text_is_not_read_as_many_queries(csplade: CSPLADE) -> None:
    with pytest.raises(DataError, match="expected a list of texts, found one text, 'dogs': put it in a list"):
        QueryTable.fit(csplade, "dogs", verbose=False)
    texts: Any = (text for text in ["dogs"])
    assert QueryTable.fit(csplade, texts, verbose=False) == QueryTable.fit(csplade, ["dogs"], verbose=False)


def test_bad_queries_are_named(table: QueryTable) -> None:
    with pytest.raises(DataError, match="query q7: expected text, found None"):
        table.transform(pd.DataFrame({"qid": ["q7"], "query": [None]}))
    with pytest.raises(DataError, match="query q7: .* is in Terrier's query language"):
        table.transform(pd.DataFrame({"qid": ["q7"], "query": ["applypipeline:off dogs^0.2"]}))
    with pytest.raises(DataError, match="text 1: expected text, found 3"):
        table.encode(["a", 3])  # type: ignore[list-item]
    with pytest.raises(DataError, match="query 0: expected text"):
        QueryTable.fit(None, [None])  # type: ignore[arg-type, list-item]


def test_the_files_give_back_the_table(table: QueryTable, saved: Path) -> None:
    loaded = QueryTable.load(saved)
    assert loaded == table and hash(loaded) == hash(table) and loaded.contract == table.contract
    assert (dense(loaded.encode(QUERIES)) == dense(table.encode(QUERIES))).all()
    assert sorted(path.name for path in saved.iterdir()) == [TABLE_FILE, "table.npz", "tokenizer.json"]
    values = json.loads((saved / TABLE_FILE).read_text())
    assert values["kind"] == "table" and values["contract"]["queries_for"] == table.contract.queries_for
    assert values["contract"]["training"] == {
        "filling": {"kind": "ridge", "entries": 4, "threshold": 0.3, "ridge": 1.0, "counts": False},
        "queries": len(set(QUERIES)),
    }


def test_repr_str_copies_and_pickles(table: QueryTable, saved: Path, csplade: CSPLADE) -> None:
    loaded = QueryTable.load(saved)
    assert repr(loaded) == f"QueryTable.load({str(saved)!r})" and str(loaded) == "QueryTable(my.table)"
    assert repr(table).startswith("QueryTable(<fingerprint ") and str(table).startswith("QueryTable(")
    assert len(pickle.dumps(loaded)) < 500
    for one in (loaded, table):
        for again in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
            assert again == one and (dense(again.encode(QUERIES)) == dense(one.encode(QUERIES))).all()
    assert table != QueryTable.from_weights(csplade, table.weights)


def test_saving_replaces_a_table(table: QueryTable, csplade: CSPLADE, tmp_path: Path) -> None:
    table.save(tmp_path)
    binary = QueryTable.from_weights(csplade, np.ones(len(csplade.vocabulary)), counts=True)
    binary.save(tmp_path)
    loaded = QueryTable.load(tmp_path)
    assert loaded == binary and dense(loaded.encode(["a a"])).sum() == 2


def test_a_full_disk_leaves_the_table_that_was_there(table: QueryTable, csplade: CSPLADE, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "400k") as disk:
        table.save(disk / "t")
        with contextlib.suppress(OSError):
            (disk / "ballast").write_bytes(bytes(400 * 1024))
        with pytest.raises(OSError, match=r"no space left, [\d,]+ bytes are needed for this file"):
            QueryTable.from_weights(csplade, np.ones(len(csplade.vocabulary))).save(disk / "t")
        assert QueryTable.load(disk / "t") == table
        assert sorted(path.name for path in (disk / "t").iterdir()) == [TABLE_FILE, "table.npz", "tokenizer.json"]


def test_every_change_of_a_file_is_refused(saved: Path, tmp_path: Path) -> None:
    for name in ("table.npz", "tokenizer.json", TABLE_FILE):
        content = (saved / name).read_bytes()
        for step in range(1, 6):
            directory = tmp_path / f"{name}-{step}"
            directory.mkdir()
            for path in saved.iterdir():
                (directory / path.name).write_bytes(path.read_bytes())
            at = len(content) * step // 6
            if name == TABLE_FILE:  # whole digits and letters change values, so that the file stays JSON
                at = next(i for i in range(at, len(content)) if content[i : i + 1].isalnum())
            changed = content[:at] + (b"1" if content[at : at + 1] != b"1" else b"2") + content[at + 1 :]
            (directory / name).write_bytes(changed)
            try:
                other = QueryTable.load(directory)
            except ContractError as error:
                assert str(directory) in str(error)  # noqa: PT017
            else:  # a value that changes no vector, such as the description of the training
                assert name == TABLE_FILE and other.contract.queries_for and other.contract.weights


@pytest.mark.parametrize("name", ["table.npz", "tokenizer.json"])
def test_a_missing_file_is_named(saved: Path, tmp_path: Path, name: str) -> None:
    for path in saved.iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ContractError, match=f"{name} is missing: copy the table again"):
        QueryTable.load(tmp_path)


def test_what_is_no_table_is_named(tmp_path: Path, table: QueryTable, csplade: CSPLADE) -> None:
    with pytest.raises(FileNotFoundError, match=f"contains no query table: {TABLE_FILE} is missing"):
        QueryTable.load(tmp_path)
    table.save(tmp_path / "one")
    QueryTable.from_weights(csplade, np.ones(len(csplade.vocabulary))).save(tmp_path / "two")
    values = json.loads((tmp_path / "one" / TABLE_FILE).read_text())
    for change, message in (
        ({"format": 2}, "newer format"),
        ({"kind": "chair"}, "does not describe a table"),
        ({"counts": 1}, "counts and split_special_tokens must be true or false"),
        ({"counts": True}, "does not belong to the other files"),
        (
            {"contract": json.loads((tmp_path / "two" / TABLE_FILE).read_text())["contract"]},
            "does not belong to the other files",
        ),
        ({"contract": {**values["contract"], "query_length": 0}}, "query_length must be a positive integer"),
    ):
        (tmp_path / "one" / TABLE_FILE).write_text(json.dumps({**values, **change}))
        with pytest.raises(ContractError, match=message):
            QueryTable.load(tmp_path / "one")


def test_a_pickle_of_a_table_whose_directory_holds_another_one_by_now(
    table: QueryTable, csplade: CSPLADE, tmp_path: Path
) -> None:
    table.save(tmp_path)
    loaded = QueryTable.load(tmp_path)
    pickled = pickle.dumps(loaded)
    QueryTable.from_weights(csplade, np.ones(len(csplade.vocabulary))).save(tmp_path)
    with pytest.raises(ContractError, match="contains another query table than when this one was pickled: load it again"):
        pickle.loads(pickled)
    for again in (copy.copy(loaded), copy.deepcopy(loaded)):
        assert again == table and (dense(again.encode(QUERIES)) == dense(table.encode(QUERIES))).all()


def crafted(saved: Path, directory: Path, **arrays: np.ndarray) -> Path:
    """Copy a table with other arrays, and with the digests of its files made to fit."""
    directory.mkdir()
    with np.load(saved / "table.npz") as packed:
        np.savez_compressed(directory / "table.npz", **{**packed, **arrays})
    (directory / "tokenizer.json").write_bytes((saved / "tokenizer.json").read_bytes())
    values = json.loads((saved / TABLE_FILE).read_text())
    values["files"] = {name: manifest.describe(directory / name) for name in values["files"]}
    (directory / TABLE_FILE).write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"token_ids": np.array([-1])}, "the tokenizer has no token -1"),
        ({"token_ids": np.array([2**32 - 1])}, "the number of a token must be below 16,777,216"),
        ({"token_ids": np.array([5, 5])}, "each term only once"),
        ({"token_ids": np.zeros((2, 2), int)}, "table.npz: token_ids has another shape or type"),
        ({"weights": np.array(["a"])}, "table.npz: weights has another shape or type"),
        ({"weights": np.ones(3, np.float32)}, "expected one weight for each of .* index terms"),
        ({"indptr": np.array([0, 2**30])}, "is damaged"),
        ({"indptr": np.arange(1000)[::-1].copy()}, "is damaged"),
        ({"indices": np.array([10**9])}, "is damaged"),
        ({"data": np.array([np.nan])}, "is damaged"),
        ({"data": np.zeros(2**26 + 1, np.float64)}, "table.npz has more than 536,870,912 bytes when it is unpacked"),
    ],
)
def test_crafted_arrays_are_refused(saved: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        QueryTable.load(crafted(saved, tmp_path / "crafted", **arrays))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(60), b"\x93NUMPY\x01\x00", b"no archive"])
def test_an_archive_that_cannot_be_read_is_refused(saved: Path, tmp_path: Path, content: bytes) -> None:
    directory = crafted(saved, tmp_path / "crafted")
    (directory / "table.npz").write_bytes(content)
    values = json.loads((directory / TABLE_FILE).read_text())
    values["files"]["table.npz"] = manifest.describe(directory / "table.npz")
    (directory / TABLE_FILE).write_text(json.dumps(values))
    with pytest.raises(ContractError, match="is damaged"):
        QueryTable.load(directory)


def test_a_tokenizer_that_panics_is_an_error_of_the_package(csplade: CSPLADE) -> None:
    """Its library, in Rust, then raises something that is no Exception."""
    backend = csplade.backbone.tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    state["normalizer"] = {"type": "Replace", "pattern": {"String": ""}, "content": "aaaa"}
    teacher = Teacher(csplade, csr_matrix((0, len(csplade.vocabulary))))
    teacher.backbone = SimpleNamespace(  # type: ignore[assignment]
        tokenizer=SimpleNamespace(backend_tokenizer=Tokenizer.from_str(json.dumps(state))),
        column_of_token=csplade.backbone.column_of_token,
    )
    broken = QueryTable.from_weights(teacher, np.ones(len(csplade.vocabulary)))
    with pytest.raises(ContractError, match="the tokenizer fails at a query .*: copy the query table again"):
        broken.encode(["é zzz", "dogs and cats"])


def test_weights_that_are_wrong(csplade: CSPLADE) -> None:
    size = len(csplade.vocabulary)
    with pytest.raises(ContractError, match="the table: expected one weight for each of .* index terms"):
        QueryTable.from_weights(csplade, np.ones(3))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ContractError, match="a weight is negative or not finite"):
            QueryTable.from_weights(csplade, np.full(size, bad))
    with pytest.raises(ContractError, match="a weight is negative or not finite"):
        QueryTable.from_weights(csplade, np.ones(size), csr_matrix(([-1.0], ([0], [1])), shape=(size, size)))


class Teacher:
    """A model whose queries have the given vectors."""

    def __init__(self, model: CSPLADE, vectors: csr_matrix) -> None:
        self.contract, self.vocabulary, self.backbone = model.contract, model.vocabulary, model.backbone
        self._vectors = vectors

    def encode_queries(self, texts: Any, *, verbose: bool | None = None) -> csr_matrix:
        return self._vectors[: len(texts)]


def test_a_teacher_without_vectors_is_refused(csplade: CSPLADE) -> None:
    empty = csr_matrix((3, len(csplade.vocabulary)), dtype=np.float32)
    with pytest.raises(DataError, match="2 of 2 queries get no terms from the model, so that there is nothing to imitate"):
        QueryTable.fit(Teacher(csplade, empty), ["a", "b"], verbose=False)
    with pytest.raises(DataError, match="there are no queries"):
        QueryTable.fit(Teacher(csplade, empty), [], verbose=False)


def test_a_tokenizer_without_a_file_is_refused(csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        pass

    monkeypatch.setattr(csplade.backbone, "tokenizer", Slow())
    with pytest.raises(ContractError, match=r"the tokenizer \(Slow\) of .* has no file tokenizer.json"):
        QueryTable.from_weights(csplade, np.ones(len(csplade.vocabulary)))


def test_a_model_that_folds_terms(csplade: CSPLADE, tmp_path: Path) -> None:
    folding = CSPLADE((language_model(), tokenizer()), contract=Contract(fold="case+space"))
    assert len(folding.vocabulary) < len(csplade.vocabulary)
    made = QueryTable.from_weights(folding, np.arange(1.0, len(folding.vocabulary) + 1))
    assert made.vocabulary.terms == folding.vocabulary.terms
    ids = csplade.backbone.tokenizer("Dogs and dogs", add_special_tokens=False)["input_ids"]
    columns = {int(folding.backbone.column_of_token[i]) for i in ids}
    assert made.encode(["Dogs and dogs"]).indices.tolist() == sorted(columns)
    made.save(tmp_path)
    loaded = QueryTable.load(tmp_path)
    assert loaded.vocabulary.terms == made.vocabulary.terms and loaded == made
    assert (dense(loaded.encode(QUERIES)) == dense(made.encode(QUERIES))).all()


# ---------------------------------------------------------------------- relation to documents


def scores(found: pd.DataFrame) -> dict[tuple[str, str], float]:
    return dict(zip(zip(found["qid"], found["docno"]), found["score"]))


def test_every_engine_of_the_documents_takes_the_vectors(
    csplade: CSPLADE,
    table: QueryTable,
    index: ImpactIndex,
    topics: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries = table(topics)
    documents = np.floor(dense(csplade.encode_docs(list(DOCUMENTS.values()))) * 100 + 0.5)
    products = dense(table.encode(topics["query"].tolist())) @ documents.T
    expected = {
        (qid, docno): products[i, j]
        for i, qid in enumerate(topics["qid"])
        for j, docno in enumerate(DOCUMENTS)
        if products[i, j]
    }
    for retriever in (index.retriever(), index.retriever(algorithm="exhaustive")):
        found = retriever(queries)
        assert scores(found) == pytest.approx(expected, rel=1e-5), retriever
    rescored = index.scorer()(found.assign(query_toks=found["qid"].map(dict(zip(queries["qid"], queries["query_toks"])))))
    assert scores(rescored) == pytest.approx(expected, rel=1e-5)
    vectors = list(csplade.doc_encoder().transform_iter({"docno": docno, "text": text} for docno, text in DOCUMENTS.items()))
    served = OpenSearchIndex(FakeCluster().client(), "docs")
    served.toks_indexer().index(vectors)
    assert len(served.retriever()(queries)) == len(expected)
    for name, make in fake_engines.MODULES.items():
        monkeypatch.setitem(sys.modules, name, make())
    monkeypatch.setattr("warnings.warn", lambda *a, **k: None)
    assert len(PisaEngine(tmp_path / "pisa").index(vectors).retriever()(queries)) > 0


def test_the_models_scorer_takes_the_vectors(csplade: CSPLADE, table: QueryTable, other: CSPLADE) -> None:
    pairs = pd.DataFrame({"qid": ["1"], "docno": ["d4"], "text": [DOCUMENTS["d4"]], "query": ["dogs and cats"]})
    expected = dense(table.encode(["dogs and cats"])) @ dense(csplade.encode_docs([DOCUMENTS["d4"]])).T
    given = table(pairs)
    assert csplade.scorer()(given)["score"].tolist() == pytest.approx(expected[0].tolist(), rel=1e-5)
    own = other.encode_queries(["dogs and cats"]) @ other.encode_docs([DOCUMENTS["d4"]]).T
    assert other.scorer()(given)["score"].tolist() == pytest.approx([own[0, 0]], rel=1e-5)  # encodes the query instead
    with pytest.raises(ContractError, match="qid '1': query_toks contains a vector of a query table for .*, not of CSPLADE"):
        other.scorer()(given.drop(columns="query"))


@pytest.mark.parametrize("algorithm", ["terrier", "exhaustive", "scorer"])
def test_a_query_that_was_rewritten_after_it_was_encoded_is_named(
    csplade: CSPLADE, table: QueryTable, index: ImpactIndex, algorithm: Any
) -> None:
    queries = pd.DataFrame({"qid": ["1", "2"], "query": ["dogs and cats", "inverted index"]})
    for encoder in (table, csplade.query_encoder()):
        given = encoder(queries)
        if algorithm == "scorer":
            search, given = index.scorer(), given.merge(pd.DataFrame({"docno": list(DOCUMENTS)}), how="cross")
        else:
            search = index.retriever(algorithm=algorithm)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            expected = search(given)
        rewritten = given.assign(query=given["query"].replace("inverted index", "applypipeline:off index^0.5"))
        with pytest.warns(UserWarning, match="query '2': the text was changed after its vector was made.*pt.rewrite.reset"):
            found = search(rewritten)
        assert found["score"].tolist() == expected["score"].tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            search(pt.rewrite.reset()(rewritten.assign(query_0=given["query"])))


def test_documents_of_another_model_refuse_the_vectors(
    table: QueryTable, index: ImpactIndex, other: CSPLADE, topics: pd.DataFrame
) -> None:
    foreign = QueryTable.from_weights(other, np.ones(len(other.vocabulary)))
    with pytest.raises(
        ContractError, match=r"query 'q1' was encoded by a query table for .* \(fingerprint .*, for documents of "
    ):
        index.retriever()(foreign(topics))
    with pytest.raises(ContractError, match="a query table for"):
        index.retriever(algorithm="exhaustive")(foreign(topics))


def test_a_table_and_folding(
    csplade: CSPLADE, table: QueryTable, index: ImpactIndex, topics: pd.DataFrame, tmp_path: Path
) -> None:
    """Queries that are folded do not fit documents that are not, and the other way round."""
    folded = ImpactIndex(tmp_path / "folded")
    documents = [{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()]
    (csplade.doc_encoder() >> FoldTerms() >> folded).index(documents)
    queries = table(topics)
    found = folded.retriever(algorithm="exhaustive")(FoldTerms(on="query_toks")(queries))
    toks = {d["docno"]: d["toks"] for d in (csplade.doc_encoder() >> FoldTerms()).transform_iter(documents)}
    expected = {
        (qid, docno): score
        for qid, query in zip(topics["qid"], FoldTerms(on="query_toks")(queries)["query_toks"])
        for docno, vector in toks.items()
        if (score := sum(weight * vector.get(term, 0) for term, weight in query.items()))
    }
    assert scores(found) == pytest.approx(expected, rel=1e-5)
    for wrong, of in ((FoldTerms(on="query_toks")(queries), index), (queries, folded)):
        with pytest.raises(ContractError, match="query 'q1' was encoded by a query table for"):
            of.retriever(algorithm="exhaustive")(wrong)


def test_a_table_makes_no_documents(csplade: CSPLADE, table: QueryTable, tmp_path: Path) -> None:
    vector = table(pd.DataFrame({"qid": ["1"], "query": ["dogs"]}))["query_toks"][0]
    impacts = ImpactVector({term: 3 for term in vector}, vector.contract)
    with pytest.raises(ContractError, match="it makes vectors of queries, not of documents"):
        ImpactIndex(tmp_path / "wrong").toks_indexer().index([{"docno": "d1", "toks": impacts}])


def test_two_steps(csplade: CSPLADE, table: QueryTable, index: ImpactIndex, topics: pd.DataFrame) -> None:
    pipeline = table >> index.retriever(num_results=4) >> csplade.query_encoder() >> index.scorer()
    found = pipeline(topics)
    full = scores((csplade.query_encoder() >> index.retriever())(topics))
    first = scores((table >> index.retriever(num_results=4))(topics))
    assert scores(found) == pytest.approx({pair: full[pair] for pair in first}, rel=1e-5)


def test_searching_with_a_table_loads_neither_torch_nor_transformers(saved: Path, index: ImpactIndex) -> None:
    code = (
        "import sys\n"
        "from pyterrier_csplade import ImpactIndex, QueryTable\n"
        "pipeline = QueryTable.load(sys.argv[1]) >> ImpactIndex(sys.argv[2]).retriever(algorithm='exhaustive')\n"
        "sys.stdout.write(f'{len(pipeline.search(\"dogs and cats\"))} ')\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'accelerate', 'jnius'}\n"
        "sys.stdout.write(' '.join(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved), str(index.path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(DOCUMENTS)} "


def test_the_encoder_gives_the_same_vectors_and_imports_numpy_scipy_and_tokenizers_only(saved: Path) -> None:
    queries = ["dogs and cats", "", "an inverted index"]
    code = (
        "import json, sys\n"
        "from pyterrier_csplade import TableEncoder\n"
        "matrix = TableEncoder.load(sys.argv[1]).encode(json.loads(sys.argv[2]))\n"
        "packages = {name.partition('.')[0] for name, module in sys.modules.items() if getattr(module, '__file__', None)}\n"
        "print(json.dumps([matrix.toarray().tolist(), sorted(packages - sys.stdlib_module_names)]))\n"
    )
    command = [sys.executable, "-c", code, str(saved), json.dumps(queries)]
    vectors, packages = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert np.array_equal(np.array(vectors, dtype=np.float32), QueryTable.load(saved).encode(queries).toarray())
    imported = {name for name in packages if not name.startswith("_")} - {"pyterrier_csplade"}
    # numpy.testing, which scipy.sparse loads, takes charset_normalizer or another detector where one is installed.
    assert imported - {"charset_normalizer", "chardet", "sitecustomize"} == {"numpy", "scipy", "tokenizers"}
