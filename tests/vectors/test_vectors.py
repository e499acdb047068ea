import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pyterrier_csplade.vectors import EncodedVectors, MatrixVectors


def test_a_matrix_is_one_block_of_encoded_vectors() -> None:
    vectors = MatrixVectors(["d1", "d2"], csr_matrix(np.eye(2, 3, dtype=np.int32)), ["a", "b", "c"])
    assert isinstance(vectors, EncodedVectors)
    ((docnos, matrix),) = vectors.blocks()
    assert (len(vectors), docnos, matrix.toarray().tolist()) == (2, ["d1", "d2"], [[1, 0, 0], [0, 1, 0]])


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\), found \(2, 3\)"):
        MatrixVectors(["d1", "d2"], csr_matrix((2, 3)), list("abcd"))
