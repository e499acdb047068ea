"""Matrices of vectors are loaded as they are, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade import DataError, MatrixVectors, OpenSearchIndex
from support.fake_opensearch import FakeCluster
from support.opensearch_documents import CONTRACT, impacts


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def test_encoded_vectors_and_their_documents(cluster: FakeCluster) -> None:
    matrix = csr_matrix(np.array([[1, 0, 3], [0, 0, 0], [0, 512, 0]], dtype=np.int32))
    vectors = MatrixVectors(["d1", "d2", "d3"], matrix, ["a.b", "c", "d"], CONTRACT)
    index = OpenSearchIndex(cluster.client(), "docs")
    texts = [{"docno": docno, "text": f"text of {docno}"} for docno in vectors.docnos]
    with pytest.warns(UserWarning, match="no impact"):
        index.index_vectors(vectors, texts, text="text")
    assert impacts(cluster) == {"d1": {"a%2Eb": 1, "d": 3}, "d2": {}, "d3": {"c": 512}}
    assert cluster.documents("docs")["d2"]["text"] == "text of d2" and index.contract == CONTRACT
    for wrong, message in ((texts[::-1], "document 1 is 'd3', but its vector is 'd1'"), (texts[:2], "document 3 is None")):
        with pytest.raises(DataError, match=message):
            index.index_vectors(vectors, wrong, text="text", overwrite=True)
    with pytest.raises(DataError, match="'d4' comes after the last of the 3 vectors"):
        index.index_vectors(vectors, [*texts, {"docno": "d4", "text": ""}], text="text", overwrite=True)
    with pytest.raises(ValueError, match="documents="):
        index.index_vectors(vectors, text="text")


def test_duplicate_entries_of_a_matrix_are_added_up(cluster: FakeCluster) -> None:
    matrix = csr_matrix((np.array([5, 1, 2]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    OpenSearchIndex(cluster.client(), "docs").index_vectors(MatrixVectors(["d"], matrix, ["a", "b", "c"]))
    assert impacts(cluster) == {"d": {"a": 1, "c": 7}}


@pytest.mark.parametrize(
    ("docnos", "vocabulary", "shape", "promised", "message"),
    [
        (["d"], ["a", "a", "c"], (1, 3), 1, "term 'a' appears twice"),
        (["d"], ["a", "b", "c"], (2, 3), 1, r"1 docnos and 3 terms, but a matrix of \(2, 3\)"),
        (["d", "e"], ["a", "b", "c"], (1, 3), 2, r"2 docnos and 3 terms, but a matrix of \(1, 3\)"),
        (["d"], ["a", "b", "c"], (1, 3), 5, "expected 5 encoded documents, found 1"),
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
