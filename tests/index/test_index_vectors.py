"""Indexes built from matrices equal those that PyTerrier's indexer builds from dictionaries, as Terrier reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy.sparse import csr_matrix

from inside.index import documents as _intake
from inside.index import inverted as _postings
from inside.index import matrices as _vectors
from inside.index import spool as _spool
from pyterrier_csplade import Contract, DataError, ImpactIndex, ImpactIndexError, MatrixVectors
from support.indexes import CONTRACT, docnos, search

VOCABULARY = ["Ġa", "b", "é", "語彙", "🙂", "\n\0", "#combine(", "x" * 60, "🙂" * 15, "~", "A", "unused"]


def random_matrix(documents: int, terms: int, seed: int = 0) -> csr_matrix:
    """Impacts of Zipf-like terms; some documents are empty."""
    rng = np.random.default_rng(seed)
    likely = 1 / np.arange(1, terms + 1)
    rows = [
        np.unique(rng.choice(terms, 0 if i % 7 == 3 else rng.integers(1, 40), p=likely / likely.sum()))
        for i in range(documents)
    ]
    indices = np.concatenate(rows)
    data = np.minimum(rng.geometric(0.02, len(indices)), 1000)
    return csr_matrix((data, indices, np.cumsum([0, *map(len, rows)])), shape=(documents, terms))


def vectors(documents: int = 60, **changes: Any) -> MatrixVectors:
    matrix = random_matrix(documents, len(VOCABULARY) - 1)
    matrix.resize(documents, len(VOCABULARY))
    names = [f"d{(7 * i) % documents}" for i in range(documents)]
    return MatrixVectors(**{"docnos": names, "matrix": matrix, "vocabulary": VOCABULARY, "contract": CONTRACT, **changes})


def as_documents(encoded: MatrixVectors) -> Iterator[dict[str, Any]]:
    for docno, row in zip(encoded.docnos, encoded.matrix):
        yield {"docno": docno, "toks": {encoded.vocabulary[c]: int(w) for c, w in zip(row.indices, row.data)}}


def read(path: Path) -> dict[str, Any]:
    """Everything that Terrier reads from an index, except the numbers of terms."""
    index = pt.terrier.IndexFactory.of(str(path))
    statistics, lexicon, meta = index.getCollectionStatistics(), index.getLexicon(), index.getMetaIndex()
    entries = {entry.getKey(): entry.getValue() for entry in lexicon}
    documents = [index.getDocumentIndex().getDocumentEntry(i) for i in range(statistics.getNumberOfDocuments())]
    term = {value.getTermId(): key for key, value in entries.items()}

    def postings(structure: Any, pointer: Any) -> list[tuple[int, int, int]]:
        if pointer.getNumberOfEntries() == 0:
            return []
        iterator = structure.getPostings(pointer)
        return [
            (iterator.getId(), iterator.getFrequency(), iterator.getDocumentLength()) for _ in iter(iterator.next, iterator.EOL)
        ]

    names = [meta.getItem("docno", i) for i in range(len(documents))]
    return {
        "documents": statistics.getNumberOfDocuments(),
        "terms": statistics.getNumberOfUniqueTerms(),
        "postings": statistics.getNumberOfPointers(),
        "tokens": statistics.getNumberOfTokens(),
        "average": statistics.getAverageDocumentLength(),
        "lexicon": [
            (k, e.getDocumentFrequency(), e.getFrequency(), e.getMaxFrequencyInDocuments()) for k, e in entries.items()
        ],
        "numbers": all(lexicon.getLexiconEntry(number).getKey() == key for number, key in term.items()),
        "inverted": {key: postings(index.getInvertedIndex(), entry) for key, entry in entries.items()},
        "lengths": [(d.getDocumentLength(), d.getNumberOfEntries()) for d in documents],
        "direct": [sorted((term[i], tf) for i, tf, _ in postings(index.getDirectIndex(), d)) for d in documents],
        "docnos": names,
        "docids": [meta.getDocument("docno", name) for name in names],
        "unknown": meta.getDocument("docno", "no such"),
    }


def slow_route(path: Path, documents: Iterator[dict[str, Any]]) -> Path:
    pt.IterDictIndexer(str(path), pretokenised=True, meta={"docno": 20}, threads=1).index(documents)
    return path


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that memory holds 50 postings."""
    monkeypatch.setattr(_vectors, "_PIECE", 30)
    monkeypatch.setattr(_intake, "_BATCH", 30)
    monkeypatch.setattr(_spool, "_SHARD", 50)
    monkeypatch.setattr(_postings, "POSTINGS_IN_MEMORY", 50)


@pytest.mark.filterwarnings("ignore:.*no impact above 0")
@pytest.mark.parametrize("pieces", ["whole", "small"])
def test_all_that_terrier_reads_is_what_the_indexer_of_pyterrier_writes(
    tmp_path: Path, pieces: str, request: pytest.FixtureRequest
) -> None:
    if pieces == "small":
        request.getfixturevalue("small_pieces")
    encoded = vectors()
    expected = read(slow_route(tmp_path / "slow", as_documents(encoded)))
    assert expected["postings"] > 200
    by_vectors, by_toks = ImpactIndex(tmp_path / "vectors"), ImpactIndex(tmp_path / "toks")
    by_vectors.index_vectors(encoded)
    by_toks.index(as_documents(encoded))
    assert read(by_vectors.directory) == expected
    assert read(by_toks.directory) == expected
    for name in ("data.inverted.bf", "data.meta-0.fsomapfile"):
        assert (by_vectors.directory / name).read_bytes() == (tmp_path / "slow" / name).read_bytes()
    assert by_vectors.contract == CONTRACT and by_toks.contract is None
    by_vectors.verify()
    assert list(by_vectors.get_corpus_iter(return_toks=True)) == list(by_toks.get_corpus_iter(return_toks=True))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.filterwarnings("ignore:.*no impact above 0")
def test_the_index_is_a_plain_artifact_with_the_scores_of_the_slow_route(tmp_path: Path) -> None:
    encoded = vectors()
    ImpactIndex(tmp_path / "fast").index_vectors(encoded)
    slow_route(tmp_path / "slow", as_documents(encoded))
    queries = pd.DataFrame([{"qid": "1", "query_toks": {"Ġa": 0.5, "é": 2.0}}, {"qid": "2", "query_toks": {"🙂" * 15: 1.0}}])
    for memory in (False, True):
        loaded = pt.Artifact.load(str(tmp_path / "fast"), memory=memory)
        assert type(loaded) is pt.terrier.TerrierIndex
        for model in ("Tf", "BM25"):
            found = loaded.retriever(model)(queries)
            pd.testing.assert_frame_equal(found, pt.terrier.Retriever(str(tmp_path / "slow"), wmodel=model)(queries))
            assert len(found) > 20


def test_small_pieces_make_the_same_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    encoded = vectors(matrix=random_matrix(60, len(VOCABULARY)))
    with pytest.warns(UserWarning, match="9 of 60"):
        ImpactIndex(tmp_path / "whole").index_vectors(encoded)
    request.getfixturevalue("small_pieces")
    with pytest.warns(UserWarning, match="9 of 60"):
        ImpactIndex(tmp_path / "pieces").index_vectors(encoded)
    for file in (tmp_path / "whole").glob("data.*"):
        if file.name != "data.properties":  # holds the time
            assert (tmp_path / "pieces" / file.name).read_bytes() == file.read_bytes(), file.name


class Blocks:
    """Encoded documents in several blocks."""

    def __init__(self, blocks: Sequence[tuple[Sequence[str], csr_matrix]], vocabulary: Sequence[str] = "abc") -> None:
        self.vocabulary = vocabulary
        self.contract: Contract | None = None
        self._blocks = blocks

    def __len__(self) -> int:
        return sum(len(names) for names, _ in self._blocks)

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        yield from self._blocks


def rows(*values: Sequence[float]) -> csr_matrix:
    return csr_matrix(np.array(values))


def test_blocks_are_one_collection(tmp_path: Path) -> None:
    encoded = Blocks([(["x", "y"], rows([1, 0, 2], [0, 3, 0])), ([], csr_matrix((0, 3))), (["z"], rows([4, 0, 0]))])
    index = ImpactIndex(tmp_path / "i").index_vectors(encoded)
    assert docnos(index) == ["x", "y", "z"]
    assert search(index, {"a": 1, "c": 0.5}) == [("z", 4), ("x", 2)]


def test_weights_are_rounded_half_up_and_nothing_is_left_of_small_ones(tmp_path: Path) -> None:
    matrix = csr_matrix(np.array([[0.5, 2.5, 0.4], [-1, 0.3, 7]], dtype=np.float32))
    with pytest.warns(UserWarning, match="rounded"):
        index = ImpactIndex(tmp_path / "i").index_vectors(Blocks([(["x", "y"], matrix)]))
    assert list(index.get_corpus_iter()) == [
        {"docno": "x", "toks": {"a": 1, "b": 3}}, {"docno": "y", "toks": {"c": 7}}
    ]  # fmt: skip


def test_entries_that_stand_twice_are_added_up_and_order_does_not_matter(tmp_path: Path) -> None:
    matrix = csr_matrix((np.array([5, 1, 2]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    index = ImpactIndex(tmp_path / "i").index_vectors(Blocks([(["x"], matrix)]))
    assert list(index.get_corpus_iter()) == [{"docno": "x", "toks": {"a": 1, "c": 7}}]
    assert matrix.data.tolist() == [5, 1, 2]  # the caller's matrix stays as it was


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (Blocks([(["x", "bad"], rows([1, 0, 0], [0, np.nan, 0]))]), "document 'bad': the weight of 'b'.*nan"),
        (Blocks([(["x", "bad"], rows([1, 0, 0], [0, -np.inf, 0]))]), "document 'bad': the weight of 'b'.*-inf"),
        (Blocks([(["bad"], rows([2.0**31, 0, 0]))]), "document 'bad': the impact of 'a'.*above"),
        (Blocks([(["x", "bad"], rows([2**30, 0, 0], [2**30, 0, 2**30]))]), "document 'bad': the impacts add up"),
        (Blocks([(["x", "bad"], rows([1, 0], [0, 1]))], ["a", "x" * 61]), "document 'bad': Terrier cannot index the term 'xxx"),
        (Blocks([(["bad"], rows([1, 1]))], ["a", ""]), "document 'bad': Terrier cannot index the term ''"),
        (Blocks([(["x"], rows([1, 1]))], ["a", "a"]), "the term 'a' appears twice"),
        (Blocks([(["x"], rows([1, 1]))], ["\ue000", "\U00010000"]), "cannot find"),
        (Blocks([(["x", " y"], rows([1, 0, 0], [1, 0, 0]))]), "docno ' y' of document 2"),
        (Blocks([(["x", 3], rows([1, 0, 0], [1, 0, 0]))]), "docno of document 2 must be a str"),  # type: ignore[list-item]
        (Blocks([(["x"], rows([1, 0, 0])), (["x"], rows([1, 0, 0]))]), "docno 'x' of document 2 appears twice"),
        (Blocks([(["x", "y"], rows([1, 0, 0]))]), r"2 docnos and 3 terms, but a matrix of \(1, 3\)"),
        (Blocks([(["x"], rows([1, 0]))]), r"1 docnos and 3 terms, but a matrix of \(1, 2\)"),
        (Blocks([]), "nothing to index"),
        (Blocks([(["x"], csr_matrix((1, 3)))]), "nothing to index"),
        (Blocks([(["x", "y", "z"], rows([1, 0, 0], [0, 0, 0], [0, 0, 0]))]), "2 of 3 documents"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_indexed_is_refused_and_leaves_nothing(tmp_path: Path, encoded: Blocks, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImpactIndex(tmp_path / "i").index_vectors(encoded)
    assert list(tmp_path.iterdir()) == []


def test_documents_that_are_missing_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = Blocks([(["x"], rows([1, 0, 0]))])
    monkeypatch.setattr(Blocks, "__len__", lambda self: 2)
    with pytest.raises(DataError, match="expected 2 encoded documents, found 1"):
        ImpactIndex(tmp_path / "i").index_vectors(encoded)


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("skip", [("x", {"a": 1}, "0"), ("y", {"b": 2}, "1")]), ("last", [("y", {"b": 2}, "1"), ("x", {"c": 5}, "3")])],
)
@pytest.mark.parametrize("shard", [2, 1000])
def test_duplicate_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Any, kept: list[Any], shard: int) -> None:
    monkeypatch.setattr(_spool, "_SHARD", shard)
    encoded = Blocks([(["x", "y"], rows([1, 0, 0], [0, 2, 0])), (["x", "x"], rows([0, 0, 4], [0, 0, 5]))])
    index = ImpactIndex(tmp_path / "i")
    index.index_vectors(encoded, on_duplicate=policy, meta={"url": map(str, range(4))})
    found = [(d["docno"], d["toks"], index.meta_index().getItem("url", i)) for i, d in enumerate(index.get_corpus_iter())]
    assert found == kept
    assert index.collection_statistics().getNumberOfUniqueTerms() == 2  # terms of replaced documents are gone


@pytest.mark.parametrize("urls", [[], ["a", None], ["a", 3]])
def test_metadata_that_are_missing_are_refused(tmp_path: Path, urls: list[Any]) -> None:
    with pytest.raises(DataError, match="'url' must be a str"):
        ImpactIndex(tmp_path / "i").index_vectors(Blocks([(["x", "y"], rows([1, 0, 0], [1, 0, 0]))]), meta={"url": urls})


def test_an_index_is_replaced_only_when_asked(tmp_path: Path) -> None:
    encoded = Blocks([(["x"], rows([1, 0, 0]))])
    index = ImpactIndex(tmp_path / "i").index_vectors(encoded)
    with pytest.raises(ImpactIndexError, match="overwrite=True"):
        index.index_vectors(encoded)
    index.index_vectors(Blocks([(["n"], rows([0, 9, 0]))]), overwrite=True)
    assert search(index, {"a": 1, "b": 1}) == [("n", 9)]


def test_an_error_of_the_collection_surfaces(tmp_path: Path) -> None:
    class Broken(Blocks):
        def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
            yield from super().blocks()
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        ImpactIndex(tmp_path / "i").index_vectors(Broken([(["x"], rows([1, 0, 0]))]))
    assert list(tmp_path.iterdir()) == []


LONG = ["語" * 50, "é" * 127, "🙂" * 64, "x" * 300, "語" * 300, "x" * 4096, "語" * 4096]


@pytest.mark.parametrize("long", [*LONG, "a,b"], ids=lambda long: f"{len(long)}{long[0]}")
def test_docnos_of_any_length_are_found_both_ways(tmp_path: Path, long: str) -> None:
    index = ImpactIndex(tmp_path / "i").index_vectors(Blocks([(["d", long, "e"], rows([1, 0, 0], [2, 0, 0], [3, 0, 0]))]))
    assert docnos(index) == ["d", long, "e"]
    assert [index.meta_index().getDocument("docno", name) for name in ("d", long, "e", "f")] == [0, 1, 2, -1]


def test_progress_is_shown_only_when_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoded = Blocks([(["x"], rows([1, 0, 0]))])
    index = ImpactIndex(tmp_path / "i").index_vectors(encoded)
    assert "ImpactIndexer" not in capfd.readouterr().err
    index.index_vectors(encoded, overwrite=True, verbose=True)
    errors = capfd.readouterr().err
    assert "ImpactIndexer" in errors and "writing" in errors
